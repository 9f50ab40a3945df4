"""Replaced-token detection: losses against transformers, sampling, what it refuses, and runs from the command line."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor

import blockformer as bf
from blockformer.assembly.checkpoint import read_checkpoint
from blockformer.cli.main import main
from blockformer.data.samples import TokenizedText
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.errors import UserError
from blockformer.generation.mask_filling import fill_masks
from blockformer.generation.text_model import TextModel
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.objectives import MaskedLM, ReplacedTokenDetection, check_model
from blockformer.training.objectives.replaced_token_detection import FINENESS, sampled
from blocks.models.base import Model
from registry import RecipeError
from tests.data.encoded import encoded
from tests.training.test_distributed import check_alike, two

GENERATOR = {
    "type": "encoder",
    "share": 0.5,
    "encoder": {"depth": 1, "layer": {"mixer": {"heads": 2, "positions": "rotary"}}},
}
DETECTOR: dict[str, Any] = {"head": "per_token", "generator": GENERATOR}
NORM = {"type": "layer", "eps": 1e-12}
LAYER = {
    "mixer": {"type": "attention", "heads": 4, "bias": True},
    "feedforward": {"type": "mlp", "hidden": 64, "activation": "gelu"},
    "residual": {"type": "post", "norm": NORM},
}
ELECTRA: dict[str, Any] = {
    "type": "encoder_only",
    "dim": 32,
    "vocab_size": 260,
    "max_length": 64,
    "embedding": {"positions": "learned", "segments": 2, "norm": NORM},
    "encoder": {"depth": 2, "layer": LAYER, "norm": None},
    "head": {"type": "per_token", "transform": {"type": "dense", "activation": "gelu"}},
    "generator": {
        "share": 0.5,
        "encoder": {"depth": 1, "layer": {**LAYER, "mixer": {**LAYER["mixer"], "heads": 2}}, "norm": None},
        "head": {"type": "tied", "bias": True, "transform": {"type": "mlm", "norm": NORM}},
    },
}


def rows_of(objective: ReplacedTokenDetection, length: int = 16) -> dict[str, Tensor]:
    tokenizer = ByteTokenizer()
    texts = ["one", "two and three", "a", "the last of the documents is longer"]
    documents = encoded(texts, tokenizer, before=tokenizer.bos)
    samples = objective.samples(TokenizedText((documents,), tokenizer, length))
    return samples.batch(np.arange(len(samples)), 0)


def theirs(recipe: Model) -> tuple[hf.ElectraForMaskedLM, hf.ElectraForPreTraining]:
    """The generator and the discriminator of transformers with the weights of a model of the recipe ELECTRA."""
    sizes = {"vocab_size": 260, "embedding_size": 32, "max_position_embeddings": 64}
    sizes |= {"intermediate_size": 64, "attn_implementation": "eager"}
    generator = hf.ElectraForMaskedLM(
        hf.ElectraConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, **sizes)
    )
    detector = hf.ElectraForPreTraining(
        hf.ElectraConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, **sizes)
    )
    ours = dict(recipe.named_parameters())
    layer = {
        "attention.self.query": "mixer.q",
        "attention.self.key": "mixer.k",
        "attention.self.value": "mixer.v",
        "attention.output.dense": "mixer.out",
        "attention.output.LayerNorm": "mixer_residual.norm",
        "intermediate.dense": "feedforward.up",
        "output.dense": "feedforward.down",
        "output.LayerNorm": "feedforward_residual.norm",
    }
    names = {
        "electra.embeddings.word_embeddings": "embedding.tokens",
        "electra.embeddings.position_embeddings": "embedding.positions.table",
        "electra.embeddings.token_type_embeddings": "embedding.segments",
        "electra.embeddings.LayerNorm": "embedding.norm",
    }
    own = {
        generator: {
            "electra.embeddings_project": "generator.project",
            "generator_predictions.dense": "generator.head.transform.dense",
            "generator_predictions.LayerNorm": "generator.head.transform.norm",
        },
        detector: {
            "discriminator_predictions.dense": "head.transform.project",
            "discriminator_predictions.dense_prediction": "head.output",
        },
    }
    for model, prefix in ((generator, "generator."), (detector, "")):
        known = {**names, **own[model]}
        for number in range(model.config.num_hidden_layers):
            start, here = f"electra.encoder.layer.{number}.", f"{prefix}encoder.layers.{number}."
            known |= {start + one: here + other for one, other in layer.items()}
        filled = set[str]()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                path, _, leaf = name.rpartition(".")
                if path == "generator_lm_head":
                    value = ours["generator.head.bias" if leaf == "bias" else "embedding.tokens.weight"]
                else:
                    value = next(ours[full] for leaf_of in (f".{leaf}", "") if (full := known[path] + leaf_of) in ours)
                parameter.copy_(value.view_as(parameter))
                filled.add(name)
        assert filled == {name for name, _ in model.named_parameters()}
    return generator.eval(), detector.eval()


def test_the_losses_are_those_of_transformers() -> None:
    model = bf.build(ELECTRA, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    objective, model = ReplacedTokenDetection(mask_rate=0.3, weight=7.0), model.eval()
    batch = rows_of(objective)
    generator, detector = theirs(model)
    mask, masked = batch["attention_mask"], batch["targets"] != -100
    said = generator(input_ids=batch["tokens"], attention_mask=mask.long())
    nll = F.cross_entropy(said.logits[masked], batch["targets"][masked], reduction="sum")
    tokens = torch.where(masked, batch["targets"], batch["tokens"])
    text = tokens.clone()
    tokens[masked] = by_hand(said.logits[masked], batch["draws"][masked])
    found = detector(input_ids=tokens, attention_mask=mask.long(), labels=(tokens != text).long())
    torch.testing.assert_close(objective.logits(model, batch)[..., 0][mask], found.logits[mask], rtol=1e-4, atol=1e-5)
    loss, sums = objective(model, batch)
    torch.testing.assert_close(loss, nll / 0.3 + 7.0 * found.loss * mask.sum(), rtol=1e-5, atol=1e-5)
    figures = objective.figures(sums, model)
    assert figures["loss"] == pytest.approx(loss.item() / mask.sum().item())
    assert figures["generator_loss"] == pytest.approx((nll / masked.sum()).item(), rel=1e-5)
    right = (said.logits.argmax(-1) == batch["targets"])[masked].float().mean()
    assert figures["generator_accuracy"] == pytest.approx(right.item())
    replaced = (tokens != text)[mask]
    assert figures["replaced"] == pytest.approx(replaced.float().mean().item())
    assert figures["found"] == pytest.approx((found.logits[mask][replaced] > 0).float().mean().item())
    assert figures["accuracy"] == pytest.approx(((found.logits[mask] > 0) == replaced).float().mean().item())


def by_hand(logits: Tensor, draws: Tensor) -> Tensor:
    """The first id up to which the probabilities sum to more than the draw."""
    found: list[int] = []
    for row, draw in zip(logits.double().softmax(-1).tolist(), draws.tolist(), strict=True):
        total, token = row[0], 0
        while total <= draw / FINENESS:
            token += 1
            total += row[token]
        found.append(token)
    return torch.tensor(found)


def test_samples_have_the_probabilities_of_the_logits() -> None:
    logits = torch.tensor([0.1, 0.0, 0.6, 0.3]).log()
    draws = torch.arange(0, FINENESS, FINENESS // 1000)
    counted = Counter(sampled(logits.expand(len(draws), -1), draws).tolist())
    assert counted[1] == 0
    assert [counted[n] / len(draws) for n in (0, 2, 3)] == pytest.approx([0.1, 0.6, 0.3], abs=0.002)
    certain = sampled(torch.tensor([[0.0, -torch.inf]] * 2), torch.tensor([0, FINENESS - 1]))
    assert certain.tolist() == [0, 0]


def test_every_parameter_learns_and_the_generator_not_from_the_detection() -> None:
    model = bf.build("tiny_encoder", DETECTOR).train()
    whole, alone = ReplacedTokenDetection(), ReplacedTokenDetection(weight=0.0)
    batch = rows_of(whole)
    gradients: list[dict[str, Tensor]] = []
    for objective in (whole, alone):
        model.zero_grad()
        objective(model, batch)[0].backward()
        gradients.append({name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None})
    assert gradients[0].keys() == dict(model.named_parameters()).keys()
    assert all(gradient.abs().max() > 0 for name, gradient in gradients[0].items() if not name.endswith("k.bias"))
    for name, gradient in gradients[0].items():
        if name.startswith("generator."):
            assert torch.equal(gradient, gradients[1][name]), name
    assert not torch.equal(gradients[0]["embedding.tokens.weight"], gradients[1]["embedding.tokens.weight"])


def test_the_loss_in_parts_is_that_of_all_logits() -> None:
    model, batch = bf.build("tiny_encoder", DETECTOR), rows_of(ReplacedTokenDetection(mask_rate=0.5))
    found: list[tuple[Tensor, Tensor, dict[str, Tensor | None]]] = []
    for chunk in (0, 3):
        model.zero_grad()
        loss, sums = ReplacedTokenDetection(mask_rate=0.5, loss_chunk=chunk)(model, batch)
        loss.backward()
        found.append((loss.detach(), sums, {name: one.grad for name, one in model.named_parameters()}))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_all_chosen_tokens_are_masked_and_what_is_scored_has_the_same_draws_in_every_epoch() -> None:
    tokenizer, objective = ByteTokenizer(), ReplacedTokenDetection(mask_rate=0.5)
    batch = rows_of(objective)
    assert (batch["tokens"][batch["targets"] != -100] == tokenizer.mask).all()
    documents = encoded(["some text to be masked"] * 3, tokenizer, before=tokenizer.bos)
    for evaluates in (False, True):
        samples = objective.samples(TokenizedText((documents,), tokenizer, 16, evaluates=evaluates))
        first, second = (samples.batch(np.arange(3), epoch)["draws"] for epoch in (0, 1))
        assert torch.equal(first, second) == evaluates
        assert 0 <= int(first.min()) < int(first.max()) < FINENESS


def test_a_model_without_a_generator_keeps_its_initial_values() -> None:
    plain, own = bf.build("tiny_encoder", {"head": "per_token"}), bf.build("tiny_encoder", DETECTOR)
    state = own.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
    assert list(state)[: len(plain.state_dict())] == list(plain.state_dict())
    assert {name.split(".")[0] for name in state.keys() - plain.state_dict().keys()} == {"generator"}
    assert own.flops_per_token(16) > plain.flops_per_token(16)
    batch = torch.tensor([[5, 6, 7]])
    assert torch.equal(plain.eval()(batch), own.eval()(batch))
    with pytest.raises(ValueError, match="the model has no generator"):
        plain(batch, propose=True)


def test_models_and_objectives_that_do_not_fit_are_refused_with_the_remedy() -> None:
    detector = bf.check("tiny_encoder", DETECTOR)
    check_model(ReplacedTokenDetection(), detector)
    with pytest.raises(
        UserError, match=r"gives logits of token ids: set --recipe.head.type per_token, or use masked_lm"
    ):
        check_model(ReplacedTokenDetection(), bf.check("tiny_encoder"))
    with pytest.raises(
        UserError, match=r"trains a recipe's generator, and .*--recipe.generator encoder, or use masked"
    ):
        check_model(ReplacedTokenDetection(), bf.check("tiny_encoder", {"head": "per_token"}))
    with pytest.raises(UserError, match=r"masked_lm scores predictions of tokens.*use replaced_token_detection"):
        check_model(MaskedLM(), detector)
    with pytest.raises(
        UserError, match=r"has generator, which .* masked_lm does not train: use replaced_token_detection"
    ):
        check_model(MaskedLM(), bf.check("tiny_encoder", {"generator": GENERATOR}))
    three = bf.check("tiny_encoder", {**DETECTOR, "head": {"type": "per_token", "outputs": 3}})
    assert "gives 3: set --recipe.head.outputs 1" in str(ReplacedTokenDetection().refusal(three, ()))
    with pytest.raises(ValueError, match="cannot predict them"):
        fill_masks(bf.build("tiny_encoder", DETECTOR).eval(), [5, 6], 6)


@pytest.mark.parametrize(
    ("generator", "message"),
    [
        ({"share": 0.3}, "share=0.3 of dim=32 is not a whole number"),
        ({"head": "pooled"}, "the head of a generator must give logits of token ids"),
    ],
)
def test_a_generator_that_cannot_be_is_refused(generator: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        bf.check("tiny_encoder", {**DETECTOR, "generator": {**GENERATOR, **generator}})


def test_a_generator_has_no_rule_for_other_widths() -> None:
    with pytest.raises(RecipeError, match="generator does not support an init with base_width"):
        bf.check("tiny_encoder", {**DETECTOR, "init": {"type": "mup", "base_width": 16}})


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    """What makes `fit` train a tiny encoder on the alphabet."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    (tmp_path / "text.txt").write_text("\n\n".join(letters[n % 26 :] + letters * 40 for n in range(40)))
    return [
        *("fit", "--recipe", "tiny_encoder", "--data.dataset", "text", "--data.files", str(tmp_path / "text.txt")),
        *("--data.tokenizer", "bytes", "--data.length", "48", "--data.batch_size", "16", "--optimizer.lr", "3e-3"),
        *("--optimizer.warmup_steps", "20", "--run.root", str(tmp_path), "--trainer.accelerator", "cpu"),
        *("--trainer.enable_progress_bar", "false", "--run.wandb", "disabled"),
    ]


@pytest.fixture
def command(settings: list[str]) -> list[str]:
    own = ["--recipe.head.type", "per_token", "--recipe.generator", json.dumps(GENERATOR)]
    return [*settings, *own, "--objective.type", "replaced_token_detection"]


@pytest.mark.slow
def test_a_run_that_continues_is_that_of_one_that_was_never_stopped(command: list[str], tmp_path: Path) -> None:
    command += ["--optimizer.schedule", "constant", "--trainer.log_every_n_steps", "1"]
    assert main([*command, "--run.name", "whole", "--trainer.max_steps", "6"]) == 0
    assert main([*command, "--run.name", "parts", "--trainer.max_steps", "3"]) == 0
    again = [*command, "--run.name", "parts", "--trainer.max_steps", "6", "--ckpt_path", "last"]
    assert main(again) == 0
    whole, parts = (read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "parts"))
    assert any("generator.project.weight" in name for name in whole["state_dict"])
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(tensor, parts["state_dict"][name]), name
    (one,), (other,) = whole["optimizer_states"], parts["optimizer_states"]
    assert len(one["state"]) == len(whole["state_dict"])
    torch.testing.assert_close(one["state"], other["state"], rtol=0, atol=0)
    losses = [
        [row["train/loss"] for row in read_rows(tmp_path / name / "metrics.jsonl") if "train/loss" in row]
        for name in ("whole", "parts")
    ]
    assert losses[0] == losses[1]
    with pytest.raises(UserError, match="not logits of ids, so it cannot generate or fill in text"):
        TextModel.load(tmp_path / "whole")


@pytest.mark.slow
def test_it_trains_a_model_to_a_known_level_whose_encoder_can_be_used(
    command: list[str], settings: list[str], tmp_path: Path
) -> None:
    assert main([*command, "--trainer.max_steps", "600", "--run.name", "r"]) == 0
    figures = [row for row in read_rows(tmp_path / "r" / "metrics.jsonl") if "val/loss" in row][-1]
    assert figures["val/generator_accuracy"] > 0.5  # by chance: 1 / 26
    assert figures["val/replaced"] > 0.02
    assert figures["val/found"] > 0.8
    assert figures["val/accuracy"] > 0.98
    assert "val/perplexity" not in figures
    checkpoint = tmp_path / "r" / "checkpoints" / "last.ckpt"
    for verb in ("validate", "predict"):
        assert main([verb, "--ckpt_path", str(checkpoint)]) == 0
    first = json.loads((tmp_path / "r" / "predictions.jsonl").read_text().splitlines()[0])
    assert first.keys() == {"predicted", "target", "accuracy"}
    assert len(first["predicted"]) == len(first["target"])
    assert main([*settings, "--run.name", "tuned", "--init-from", str(tmp_path / "r"), "--trainer.max_steps", "1"]) == 0
    assert "carried" in (tmp_path / "tuned" / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "tensor_parallel"])
def test_two_processes_train_like_one(
    strategy: str, together: Callable[..., Any], command: list[str], tmp_path: Path
) -> None:
    command += ["--trainer.max_steps", "3", "--trainer.log_every_n_steps", "1", "--optimizer.eps", "1e-4"]
    assert main([*command, "--run.name", "one"]) == 0
    process = together(*command, "--run.name", strategy, *two(strategy))
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    check_alike(tmp_path / strategy, tmp_path / "one")
