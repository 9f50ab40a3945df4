"""Multi-token prediction: targets and losses against references, what it refuses, and runs from the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import blockformer as bf
from blockformer.assembly.checkpoint import model_weights, read_checkpoint
from blockformer.cli.main import main
from blockformer.data.mixed_samples import MEMBERSHIP
from blockformer.data.samples import TokenizedText
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.errors import UserError
from blockformer.inspection.memory import saved_for_backward
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.objectives import CausalLM, Distillation, MultiTokenPrediction, check_model
from blockformer.training.objectives.multi_token_prediction import further_targets
from blockformer.training.score import SIZE, Score, metrics_of
from blocks.base import Context
from blocks.models.base import Model
from tests.data.encoded import encoded
from tests.training.test_distributed import check_alike, two

KINDS = {
    "parallel": ["parallel", "parallel"],
    "sequential": ["sequential", "sequential"],
    "mixed": ["sequential", {"type": "parallel", "norm": "layer", "layer": {"mixer": {"heads": 2}}}],
}
SMALL = {"vocab_size": 260, "decoder.depth": 1}


def built(*extra: Any, **overrides: Any) -> Model:
    return bf.build("tiny_decoder", SMALL | {"extra_predictions": list(extra)} | overrides)


def rows_of(objective: CausalLM, length: int = 16) -> dict[str, torch.Tensor]:
    tokenizer = ByteTokenizer()
    texts = ["one", "two and three", "a", "the last of the documents is longer"]
    documents = encoded(texts, tokenizer, before=tokenizer.bos)
    samples = objective.samples(TokenizedText((documents,), tokenizer, length))
    return samples.batch(np.arange(len(samples)), 0)


def by_hand(batch: dict[str, torch.Tensor], further: int) -> torch.Tensor:
    """The targets, place by place: those of the next token, where it is of the same document."""
    found = torch.full_like(batch["targets"], -100)
    for row, documents in enumerate(batch["documents"].tolist()):
        for place, document in enumerate(documents):
            if place + further < len(documents) and documents[place + further] == document:
                found[row, place] = batch["targets"][row, place + further]
    return found


@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize("further", [0, 1, 2, 3, 20])
def test_further_targets_stay_within_document_and_row(further: int, separate: bool) -> None:
    batch = rows_of(MultiTokenPrediction(separate_documents=separate))
    found = further_targets(batch["targets"], batch["documents"], further)
    assert torch.equal(found, by_hand(batch, further))
    assert (found != ByteTokenizer().bos).all()
    if 0 < further < 4:
        special = ByteTokenizer()
        tokens = batch["tokens"]
        for row, place in (found != -100).nonzero().tolist():
            following = tokens[row, place + 1 : place + further + 1].tolist()
            assert special.bos not in following, "no document begins between a token and its target"


def reference(model: Any, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """(B, T, V) logits of the next token and of each extra prediction, by the formulas of the papers."""
    known = {"documents": batch["documents"]}
    x = model(batch["tokens"], **known, hidden=True)
    found, previous = [model.logits(x)], x
    for number, block in enumerate(model.extra_predictions, 1):
        context = Context.of(batch["tokens"], **known)
        rows = x
        if hasattr(block, "project"):
            embedded = model.embedding(batch["tokens"], Context.of(batch["tokens"], **known))
            ahead = torch.zeros_like(embedded)
            ahead[:, :-number] = embedded[:, number:]
            left, right = block.project.weight.chunk(2, dim=1)
            rows = block.previous_norm(previous) @ left.T + block.ahead_norm(ahead) @ right.T
        block.layer.prepare(context)
        previous = block.norm(block.layer(rows, context))
        found.append(model.logits(previous))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_a_reference_also_in_parts(kind: str) -> None:
    model = built(*KINDS[kind]).eval()
    batch = rows_of(MultiTokenPrediction())
    logits = reference(model, batch)
    each = [
        F.cross_entropy(one.flatten(0, 1), by_hand(batch, number).flatten(), ignore_index=-100, reduction="sum")
        for number, one in enumerate(logits)
    ]
    wanted = each[0] + 0.8 * (each[1] + each[2]) / 2
    wanted.backward()
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    assert len(gradients) == len(list(model.parameters()))
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for chunk in (0, 7, 64):
        model.zero_grad()
        loss, sums = MultiTokenPrediction(extra_weight=0.8, loss_chunk=chunk)(model, batch)
        loss.backward()
        torch.testing.assert_close(loss, wanted)
        assert Score.of(sums).nll == pytest.approx(each[0].item(), rel=1e-5)
        own = {name: one.grad for name, one in model.named_parameters()}
        torch.testing.assert_close(own, gradients, rtol=1e-4, atol=1e-5)
    evaluated = MultiTokenPrediction(loss_chunk=7)(model.eval(), batch)[1]
    metrics = metrics_of(evaluated, MultiTokenPrediction().own_figures(model))
    assert metrics["loss"] * evaluated[3] == pytest.approx(each[0].item(), rel=1e-5)
    for number, one in enumerate(logits[1:], 1):
        targets = by_hand(batch, number)
        right = (one.argmax(-1) == targets)[targets != -100].float().mean().item()
        assert metrics[f"accuracy_{number + 1}"] == pytest.approx(right)
        assert evaluated[SIZE + 2 * number - 1] == (targets != -100).sum()


@pytest.mark.parametrize("chunk", [0, 7, 64])
def test_the_sources_of_a_mixture_are_counted_for_the_next_token_alone(chunk: int) -> None:
    model, batch = built(*next(iter(KINDS.values()))).eval(), rows_of(MultiTokenPrediction())
    members = torch.arange(len(batch["tokens"]))[:, None] % 2 == torch.arange(2)
    with torch.no_grad():
        logits = reference(model, batch)[0]
        sums = MultiTokenPrediction(loss_chunk=chunk)(model, batch | {MEMBERSHIP: members})[1]
    found = sums[SIZE + 2 * len(model.extra_predictions) :].view(2, 2)
    for source, (total, count) in enumerate(found.tolist()):
        own = members[:, source]
        wanted = F.cross_entropy(logits[own].flatten(0, 1), batch["targets"][own].flatten(), reduction="sum")
        assert total == pytest.approx(wanted.item(), rel=1e-5)
        assert count == (batch["targets"][own] != -100).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_an_extra_prediction_does_not_see_what_it_predicts(kind: str) -> None:
    model = built(*KINDS[kind]).eval()
    tokens = torch.randint(4, 260, (1, 9))
    for place in range(2, 9):
        other = tokens.clone()
        other[0, place] = (other[0, place] + 1) % 260
        one, changed = (model(given, extra=True) for given in (tokens, other))
        for number in range(3):
            before = slice(0, max(0, place - number))
            torch.testing.assert_close(one[number][:, before], changed[number][:, before])


def test_without_them_recipes_and_models_are_as_before() -> None:
    plain, extra = bf.build("tiny_decoder", SMALL).eval(), built("parallel", "sequential").eval()
    assert bf.load_recipe("tiny_decoder", {"extra_predictions": []}).hash == bf.load_recipe("tiny_decoder").hash
    names = [name for name, _ in plain.named_parameters()]
    assert [name for name, _ in extra.named_parameters()][: len(names)] == names
    assert not any("extra" in name for name in plain.state_dict())
    tokens = torch.randint(260, (2, 8))
    assert torch.equal(plain(tokens), extra(tokens)), "a forward pass without them, with the same initial values"


def test_they_count_as_parameters_operations_and_memory() -> None:
    plain, extra = bf.build("tiny_decoder", SMALL), built("parallel", "parallel")
    own = sum(one.numel() for name, one in extra.named_parameters() if name.startswith("extra_predictions."))
    assert extra.size == plain.size + own > plain.size
    layer = sum(extra.extra_predictions[0].flops_per_token(32) for _ in range(2))
    head = extra.head.flops_per_token(32)
    assert extra.flops_per_token(32) == pytest.approx(plain.flops_per_token(32) + layer + 2 * head)
    few, many = (sum(saved_for_backward(model, 2, 16, "32-true")[0].values()) for model in (plain, extra))
    assert many > 1.5 * few


def test_models_and_objectives_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"which objective\.type causal_lm does not train: use multi_token_pred"):
        check_model(CausalLM(), built("parallel"))
    with pytest.raises(UserError, match=r"and this one has none: set --recipe\.extra_predictions"):
        check_model(MultiTokenPrediction(), built())
    with pytest.raises(UserError, match="multi_token_prediction trains decoder_only models"):
        check_model(MultiTokenPrediction(), bf.build("tiny_encoder"))
    with pytest.raises(UserError, match="multi_token_prediction cannot be distilled"):
        Distillation(of=MultiTokenPrediction)
    check_model(MultiTokenPrediction(), built("parallel"))


def command(folder: Path, *more: str) -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    (folder / "text.txt").write_text("\n\n".join(letters[n % 26 :] + letters * 9 for n in range(60)))
    return [
        *("fit", "--recipe", "tiny_decoder", "--recipe.decoder.depth", "1"),
        *("--objective.type", "multi_token_prediction"),
        *("--data.dataset", "text", "--data.files", str(folder / "text.txt"), "--data.tokenizer", "bytes"),
        *("--data.length", "32", "--data.batch_size", "16", "--optimizer.lr", "1e-2", "--optimizer.warmup_steps", "5"),
        *("--run.root", str(folder), "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
        *("--run.wandb", "disabled", *more),
    ]


@pytest.mark.slow
def test_each_prediction_learns_the_alphabet_and_the_export_leaves_it_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ["--recipe.extra_predictions", "[sequential, parallel]", "--objective.extra_weight", "1"]
    assert main(command(tmp_path, *extra, "--trainer.max_steps", "150", "--run.name", "r")) == 0
    rows = read_rows(tmp_path / "r" / "metrics.jsonl")
    last = [row for row in rows if "val/loss" in row][-1]
    for name in ("accuracy", "accuracy_2", "accuracy_3"):
        assert last[f"val/{name}"] > 0.95, name
    assert {"train/accuracy_2", "train/accuracy_3"} <= set().union(*rows)
    checkpoint = str(tmp_path / "r" / "checkpoints" / "last.ckpt")
    assert main(["validate", "--ckpt_path", checkpoint]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main(["generate", checkpoint, "--prompt", "abcdef", "--max-new-tokens", "4"]) == 0
    capsys.readouterr()
    assert main(["export", checkpoint, "--to", "hf", "--out", str(tmp_path / "hf"), "--no-verify"]) == 0
    assert "2 extra predictions left out, which serve training only" in capsys.readouterr().out
    assert any("extra_predictions.1." in name for name in model_weights(read_checkpoint(checkpoint)))


@pytest.mark.slow
def test_two_processes_train_extra_predictions_like_one(
    fit: Callable[..., Path], together: Callable[..., Any], runs: Path, tmp_path: Path
) -> None:
    _, *given = command(tmp_path, "--recipe.extra_predictions", "[sequential, sequential]", "--trainer.max_steps", "3")
    given += ["--optimizer.eps", "1e-4", "--objective.loss_chunk", "50", "--trainer.limit_val_batches", "1"]
    given[given.index("--run.root") + 1] = str(runs)
    process = together("fit", *given, "--run.name", "both", *two("ddp"))
    alone = fit(name="alone", given=given)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    check_alike(runs / "both", alone)
