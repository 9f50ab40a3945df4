"""Every value of an explanation is one of the model's own forward pass."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import blockformer as bf
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.explanation import Explanation, Limits, explain
from blocks.attention.cross import CrossAttention
from blocks.attention.softmax import MultiHeadAttention
from blocks.base import FeedForward, Mixer, Residual, Router
from blocks.models.base import Model

ALL = Limits(tokens=10**6, heads=10**6, channels=10**6, vocabulary=10**6, layers=10**6)
RECIPES = ["tiny_decoder", "tiny_encoder", "tiny_encoder_decoder", "tiny_experts", "tiny_local_global", "tiny_hybrid"]
SOURCE, TEXT = "Katze", "cat eats"


def explained(model: Model) -> Explanation:
    return explain(model, TEXT, source=SOURCE if model.kind == "encoder_decoder" else None, limits=ALL)


def ran(model: Any) -> tuple[dict[str, Tensor], dict[str, Any], Tensor]:
    """What each module was given first and what it returned, by hooks in a plain forward pass; and the logits."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Any] = {}

    def note(path: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            inputs.setdefault(path, args[0])
            outputs.setdefault(path, output)

        return hook

    handles = [module.register_forward_hook(note(path)) for path, module in model.named_modules()]
    tokenizer = ByteTokenizer()
    with torch.inference_mode():
        if model.kind == "encoder_decoder":
            source = torch.tensor([[*tokenizer.encode(SOURCE), tokenizer.eos]])
            logits = model(source, torch.tensor([[tokenizer.bos, *tokenizer.encode(TEXT)]]))
        else:
            before, after = tokenizer.around(model.kind)
            logits = model(torch.tensor([[*before, *tokenizer.encode(TEXT), *after]]))
    for handle in handles:
        handle.remove()
    return inputs, outputs, logits[0]


@pytest.mark.parametrize("recipe", RECIPES)
def test_values_equal_those_of_hooks_in_a_plain_forward_pass(recipe: str) -> None:
    model = bf.build(recipe, seed=1).eval()
    explanation = explained(model)
    inputs, outputs, logits = ran(model)
    compared = 0
    for path, module in model.named_modules():
        given, output = inputs.get(path), outputs.get(path)
        if isinstance(module, Residual):
            after = recipe == "tiny_encoder_decoder"  # there the norm gives the output
            assert torch.equal(explanation.value(f"{path}.norm" if after else path), output[0])
        elif isinstance(module, MultiHeadAttention | CrossAttention):
            for name in ("q", "k", "v"):
                assert torch.equal(explanation.value(path, name), outputs[f"{path}.{name}"][0])
            assert torch.equal(explanation.value(path, "joined"), inputs[f"{path}.out"][0])
            assert torch.equal(explanation.value(path), output[0])
        elif isinstance(module, Router):
            assert torch.equal(explanation.value(path, "weights"), output[0])
            assert torch.equal(explanation.value(path, "chosen"), output[1].float())
        elif isinstance(module, Mixer | FeedForward):
            value = explanation.value(path)
            assert torch.equal(value, output[0] if value.ndim < output.ndim else output)
        else:
            continue
        assert given is not None
        compared += 1
    assert compared >= 4
    found = explanation.find("head").value
    order = torch.tensor(found.index[1]).argsort()
    assert torch.equal(found.data[:, order], logits)
    torch.testing.assert_close(explanation.value("head", "probabilities")[:, order], logits.softmax(-1))


@pytest.mark.parametrize("recipe", ["tiny_decoder", "tiny_encoder_decoder", "tiny_experts"])
def test_predictions_and_the_next_token_are_those_of_the_logits(recipe: str) -> None:
    model = bf.build(recipe, seed=1).eval()
    explanation, (_, _, logits) = explained(model), ran(model)
    for prediction in explanation.predictions:
        shares = logits[prediction.at].softmax(-1)
        assert [token.id for token, _ in prediction.best] == shares.topk(len(prediction.best)).indices.tolist()
        best = shares.topk(len(prediction.best)).values.tolist()
        assert [share for _, share in prediction.best] == pytest.approx(best)
    assert explanation.written is not None
    assert explanation.written.id == int(logits[-1].argmax())


def test_states_over_time_are_those_of_the_recurrence_that_the_forward_pass_reads() -> None:
    model = bf.build("tiny_hybrid", seed=1).eval()
    explanation = explained(model)
    path = "decoder.layers.1.mixer"
    states, q = explanation.value(path, "memory"), explanation.value(path, "q")  # (T, H, K, V), (H, T, K)
    read = torch.einsum("thkv,htk->htv", states, q)
    torch.testing.assert_close(read, explanation.value(path, "read"), atol=1e-5, rtol=1e-4)


def test_a_state_belongs_to_the_block_that_keeps_it() -> None:
    lookup = {"type": "ngram", "rows": 16}
    layer = {"mixer": {"type": "gated_delta", "heads": 2}, "lookup": lookup, "last_mixer": {"type": "ssd", "heads": 4}}
    sizes = {"type": "decoder_only", "dim": 32, "vocab_size": 300, "max_length": 32}
    model = bf.build({**sizes, "decoder": {"depth": 3, "layer": layer}})
    explanation = explain(model, "cat", limits=Limits(channels=64, layers=2))
    states = [step for step in explanation.steps if step.name == "memory"]
    assert [(step.layer, step.block) for step in states] == [
        (layer, block) for layer in (0, 2) for block in ("mixer/gated_delta", "mixer/ssd")
    ]
    path = "decoder.layers.2.last_mixer"
    memory, q = explanation.value(path, "memory"), explanation.value(path, "q")  # (T, H, K, V), (1, T, K)
    read = torch.einsum("thkv,tk->htv", memory, q[0])
    skip = explanation.value(path, "v")  # skip is 1 at the start
    torch.testing.assert_close(read + skip, explanation.value(path, "read"), atol=1e-5, rtol=1e-4)
    places = [explanation.steps.index(explanation.find(path, name)) for name in ("read", "memory", "output")]
    assert places == sorted(places)


def test_the_cache_keeps_keys_of_each_token_and_states_of_a_fixed_size() -> None:
    explanation = explained(bf.build("tiny_hybrid", seed=1).eval())
    tokens = len(explanation.texts[0])
    recurrent, latent = explanation.cache[0], explanation.cache[3]
    assert (recurrent.tokens, recurrent.before) == (None, recurrent.after)
    assert latent.tokens == tokens + 1
    assert latent.after * tokens == latent.before * (tokens + 1)
    cross = [one for one in explained(bf.build("tiny_encoder_decoder")).cache if one.state == "cross"]
    assert {one.tokens for one in cross} == {len(SOURCE) + 1}


def test_each_step_names_what_it_is_computed_from() -> None:
    explanation = explained(bf.build("tiny_decoder"))
    path = "decoder.layers.0.mixer"
    scores = explanation.find(path, "scores")
    assert [step.name for step in scores.of] == ["placed_q", "placed_k"]
    assert [step.name for step in explanation.find(path, "weighted").of] == ["weights", "v"]
    assert [step.label for step in explanation.find(path, "q").of] == ["decoder.layers.0.mixer_residual.norm.output"]
    known = set(map(id, explanation.steps))
    assert all(id(source) in known for step in explanation.steps for source in step.of)


def test_keys_of_cross_attention_come_from_the_encoder() -> None:
    explanation = explained(bf.build("tiny_encoder_decoder"))
    keys = explanation.find("decoder.layers.1.cross", "k")
    assert [step.path for step in keys.of] == ["encoder.layers.1.feedforward_residual.norm"]
    assert (keys.sequence, keys.keys) == (1, 0)
    assert keys.value.shape[1] == len(SOURCE) + 1
    assert explanation.find("decoder.layers.1.mixer", "k").keys == 1


def test_a_block_that_declares_nothing_is_explained_by_its_docstring() -> None:
    model = bf.build("tiny_encoder", {"encoder.layer.mixer": "fourier", "encoder.layer.feedforward.activation": "silu"})
    step = explain(model, TEXT, limits=ALL).find("encoder.layers.0.mixer")
    assert step.caption.startswith("Re(F_time(F_width(x))): the real part of Fourier transforms")
    assert step.paper.startswith("Lee-Thorp et al., 2021")
    assert step.value.axes == ("token", "width")


def test_rows_of_experts_are_named_by_token_and_expert() -> None:
    explanation = explained(bf.build("tiny_experts"))
    path = "decoder.layers.1.feedforward"
    chosen, hidden = explanation.value(f"{path}.router", "chosen"), explanation.find(f"{path}.experts", "activated")
    assert hidden.value.axes == ("row", "unit")
    assert sorted(hidden.rows) == sorted((t, int(e)) for t, row in enumerate(chosen.tolist()) for e in row)


def test_residual_streams_have_an_axis_of_their_own() -> None:
    model = bf.build("tiny_decoder", {"decoder.layer.residual": "hyper", "decoder.readout": "weighted"}, seed=1).eval()
    explanation = explained(model)
    inputs, outputs, _ = ran(model)
    where = "decoder.layers.1.mixer_residual"
    for path, name, axes in (
        (where, "output", ("token", "stream", "width")),
        (where, "read", ("token", "stream")),
        (where, "mix", ("token", "stream", "into")),
        (f"{where}.streams_norm", "mean", ("token", "stream")),
        (f"{where}.streams_norm", "output", ("token", "stream", "width")),
        (f"{where}.inner.norm", "mean", ("token",)),
        ("decoder.readout", "read", ("token", "stream")),
    ):
        assert explanation.find(path, name).value.axes == axes
    assert torch.equal(explanation.value(where), outputs[where][0])
    read, x = explanation.value("decoder.readout", "read"), inputs["decoder.readout"][0]
    torch.testing.assert_close((read[..., None] * x).sum(-2), outputs["decoder.readout"][0])


def test_formulas_have_the_biases_and_symbols_of_this_model() -> None:
    mixer, feedforward = "decoder.layers.0.mixer", "decoder.layers.0.feedforward"
    changes = {
        "decoder.layer.mixer.bias": ["q", "out"],
        "decoder.layer.mixer.positions": "none",
        "decoder.layer.feedforward": {"type": "mlp", "hidden": 64, "bias": ["up"]},
        "head": {"type": "tied", "bias": True},
    }
    plain, biased = (
        {(step.path, step.name): step.formula for step in explain(model, "cat").steps}
        for model in (bf.build("tiny_decoder"), bf.build("tiny_decoder", changes))
    )
    assert (plain[mixer, "q"], biased[mixer, "q"]) == ("Q = X W_Q", "Q = X W_Q + b_Q")
    assert plain[mixer, "k"] == biased[mixer, "k"] == "K = X W_K"
    assert (plain[mixer, "output"], biased[mixer, "output"]) == ("(Y_1, ..., Y_4) W_O", "(Y_1, ..., Y_4) W_O + b_O")
    assert (plain["head", "output"], biased["head", "output"]) == ("L = x E^T", "L = x E^T + b")
    assert (biased[feedforward, "hidden"], biased[feedforward, "output"]) == ("H = X W_up + b_up", "A W_down")
    # Rotary positions turn queries and keys, and leave the values as they are.
    assert (plain[mixer, "scores"], biased[mixer, "scores"]) == ("S = Q' K'^T", "S = Q K^T")
    assert plain[mixer, "weighted"] == "Y = A V"
