"""The recipes named after published models against Hugging Face's implementations, weights copied by hand."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import blockformer as bf
from blocks.models.base import Model

transformers = pytest.importorskip("transformers")

DIM, HIDDEN, VOCABULARY, DEPTH, LENGTH = 32, 48, 67, 3, 9
SMALL = {"dim": DIM, "vocab_size": VOCABULARY, "max_length": 16}
State = Mapping[str, Tensor]


def gpt2() -> tuple[Any, dict[str, Any]]:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=16, n_embd=DIM, n_layer=DEPTH, n_head=4, n_inner=HIDDEN
    )
    layer = {"decoder.layer.mixer.heads": 4, "decoder.layer.feedforward.hidden": HIDDEN}
    return transformers.GPT2LMHeadModel(config), {**SMALL, "decoder.depth": DEPTH, **layer}


def gpt2_weights(theirs: State) -> dict[str, Tensor]:
    found = {
        "embedding.tokens.weight": theirs["transformer.wte.weight"],
        "embedding.positions.table.weight": theirs["transformer.wpe.weight"],
        **norm("decoder.norm", "transformer.ln_f", theirs),
    }
    for i in range(DEPTH):
        ours, old = f"decoder.layers.{i}", f"transformer.h.{i}"
        for kind in ("weight", "bias"):  # their matrices are (in, out), and one holds q, k and v
            joined = theirs[f"{old}.attn.c_attn.{kind}"]
            for name, part in zip("qkv", joined.chunk(3, dim=-1), strict=True):
                found[f"{ours}.mixer.{name}.{kind}"] = part.t()
            found[f"{ours}.mixer.out.{kind}"] = theirs[f"{old}.attn.c_proj.{kind}"].t()
            found[f"{ours}.feedforward.up.{kind}"] = theirs[f"{old}.mlp.c_fc.{kind}"].t()
            found[f"{ours}.feedforward.down.{kind}"] = theirs[f"{old}.mlp.c_proj.{kind}"].t()
        found |= norm(f"{ours}.mixer_residual.norm", f"{old}.ln_1", theirs)
        found |= norm(f"{ours}.feedforward_residual.norm", f"{old}.ln_2", theirs)
    return found


def llama() -> tuple[Any, dict[str, Any]]:
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=DIM, intermediate_size=HIDDEN, num_hidden_layers=DEPTH,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )  # fmt: skip
    mixer = {"decoder.layer.mixer.heads": 4, "decoder.layer.mixer.kv_heads": 2}
    overrides = {**SMALL, "decoder.depth": DEPTH, **mixer, "decoder.layer.feedforward.hidden": HIDDEN}
    return transformers.LlamaForCausalLM(config), overrides


def llama_weights(theirs: State) -> dict[str, Tensor]:
    found = {
        "embedding.tokens.weight": theirs["model.embed_tokens.weight"],
        "decoder.norm.weight": theirs["model.norm.weight"],
        "head.project.weight": theirs["lm_head.weight"],
    }
    names = {
        "mixer.q": "self_attn.q_proj", "mixer.k": "self_attn.k_proj", "mixer.v": "self_attn.v_proj",
        "mixer.out": "self_attn.o_proj", "feedforward.gate": "mlp.gate_proj", "feedforward.up": "mlp.up_proj",
        "feedforward.down": "mlp.down_proj", "mixer_residual.norm": "input_layernorm",
        "feedforward_residual.norm": "post_attention_layernorm",
    }  # fmt: skip
    for i in range(DEPTH):
        for ours, old in names.items():
            found[f"decoder.layers.{i}.{ours}.weight"] = theirs[f"model.layers.{i}.{old}.weight"]
    return found


def bert() -> tuple[Any, dict[str, Any]]:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=DIM, intermediate_size=HIDDEN, num_hidden_layers=DEPTH,
        num_attention_heads=4, max_position_embeddings=16,
    )  # fmt: skip
    layer = {"encoder.layer.mixer.heads": 4, "encoder.layer.feedforward.hidden": HIDDEN}
    return transformers.BertForMaskedLM(config), {**SMALL, "encoder.depth": DEPTH, **layer}


def bert_weights(theirs: State) -> dict[str, Tensor]:
    old = "bert.embeddings"
    found = {
        "embedding.tokens.weight": theirs[f"{old}.word_embeddings.weight"],
        "embedding.positions.table.weight": theirs[f"{old}.position_embeddings.weight"],
        "embedding.segments.weight": theirs[f"{old}.token_type_embeddings.weight"],
        "head.bias": theirs["cls.predictions.bias"],
        **norm("embedding.norm", f"{old}.LayerNorm", theirs),
        **norm("head.transform.dense", "cls.predictions.transform.dense", theirs),
        **norm("head.transform.norm", "cls.predictions.transform.LayerNorm", theirs),
    }
    names = {
        "mixer.q": "attention.self.query", "mixer.k": "attention.self.key", "mixer.v": "attention.self.value",
        "mixer.out": "attention.output.dense", "mixer_residual.norm": "attention.output.LayerNorm",
        "feedforward.up": "intermediate.dense", "feedforward.down": "output.dense",
        "feedforward_residual.norm": "output.LayerNorm",
    }  # fmt: skip
    for i in range(DEPTH):
        for ours, theirs_is in names.items():
            found |= norm(f"encoder.layers.{i}.{ours}", f"bert.encoder.layer.{i}.{theirs_is}", theirs)
    return found


def norm(ours: str, old: str, theirs: State) -> dict[str, Tensor]:
    """Weight and bias of one module."""
    return {f"{ours}.{kind}": theirs[f"{old}.{kind}"] for kind in ("weight", "bias")}


Case = tuple[Callable[[], tuple[Any, dict[str, Any]]], Callable[[State], dict[str, Tensor]]]
CASES: dict[str, Case] = {
    "gpt2": (gpt2, gpt2_weights),
    "llama3_8b": (llama, llama_weights),
    "bert_base": (bert, bert_weights),
}


def both(name: str) -> tuple[Model, Any]:
    """Ours and theirs with the same weights, random everywhere, since biases that start at 0 would show nothing."""
    make, weights = CASES[name]
    theirs, overrides = make()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            scale = 0.2 if parameter.ndim > 1 else 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale + (parameter.ndim == 1))
    ours = bf.build(name, overrides)
    ours.load_state_dict(weights(theirs.state_dict()), strict=True)
    return ours.eval(), theirs.eval()


def assert_near(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """No further apart than a share of the largest value."""
    assert float((ours - theirs).detach().abs().max()) < tolerance * float(theirs.detach().abs().max())


@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients_equal_those_of_hugging_face(name: str) -> None:
    ours, theirs = both(name)
    tokens = torch.randint(VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    y, expected = ours(tokens), theirs(tokens).logits
    assert_near(y, expected, 2e-5)
    y.square().mean().backward()
    expected.square().mean().backward()
    table, reference = ours.embedding.table.grad, theirs.get_input_embeddings().weight.grad
    assert table is not None
    assert_near(table, reference, 1e-4)


@pytest.mark.parametrize("name", CASES)
def test_padded_batches_equal_those_of_hugging_face(name: str) -> None:
    ours, theirs = both(name)
    tokens = torch.randint(VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, LENGTH, dtype=torch.bool)
    mask[1, -3:] = False
    y, expected = ours(tokens, attention_mask=mask), theirs(tokens, attention_mask=mask.long()).logits
    assert_near(y[mask], expected[mask], 2e-5)


def test_segments_are_bert_s_token_types() -> None:
    ours, theirs = both("bert_base")
    tokens = torch.randint(VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    segments = (torch.arange(LENGTH) > 4).long().expand(2, -1)
    y, expected = ours(tokens, segments=segments), theirs(tokens, token_type_ids=segments).logits
    assert_near(y, expected, 2e-5)
