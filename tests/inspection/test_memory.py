"""`blockformer show --memory`."""

import json
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

import blockformer as bf
import registry
from blockformer.cli.main import main
from blockformer.cli.show import size
from blockformer.inspection.batch import logits_of, mean_loss, random_batch
from blockformer.inspection.memory import PRECISIONS, memory
from blockformer.training.objectives.vocabulary_loss import rows_at_once
from blockformer.training.optimizers import OptimizerSettings
from blocks.models.base import Model

TINY = [name for name in registry.builtin_recipes() if name.startswith("tiny_")]


def really_saved(model: Model, batch: int, length: int, precision: str) -> int:
    """Bytes of the distinct storages that autograd holds after a forward and its loss, parameters left out."""
    owned = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: list[weakref.ref[Tensor]] = []

    def pack(tensor: Tensor) -> Tensor:
        alias = tensor.detach()  # held by autograd alone, so that it ends when autograd lets go
        saved.append(weakref.ref(alias))
        return alias

    tokens = random_batch(model, batch, length)
    mixed = torch.autocast("cpu", torch.bfloat16) if precision == "bf16-mixed" else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with mixed:
            logits = logits_of(model, tokens)
        loss = mean_loss(logits, tokens)
    storages = [tensor.untyped_storage() for one in saved if (tensor := one()) is not None]
    kept = {storage.data_ptr(): storage.nbytes() for storage in storages if storage.data_ptr() not in owned}
    loss.backward()
    return sum(kept.values())


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", TINY)
def test_activations_are_those_that_a_real_step_saves(name: str, precision: str) -> None:
    recipe = registry.load_recipe(name)
    found = memory(recipe, precision, 2, 24)
    model = bf.build(recipe, dtype=PRECISIONS[precision]).train()
    kept = really_saved(model, 2, 24, precision)
    assert sum(found.activations.values()) + found.loss == kept
    assert found.parameters == sum(parameter.nbytes for parameter in model.parameters())
    assert found.gradients == sum(
        parameter.grad.nbytes for parameter in model.parameters() if parameter.grad is not None
    )


def test_the_optimizer_needs_what_it_really_holds() -> None:
    model = bf.build("tiny_experts")
    really_saved(model, 1, 8, "fp32")
    optimizer = OptimizerSettings().make(model, fused=False)
    optimizer.step()
    state = sum(value.nbytes for values in optimizer.state.values() for value in values.values())
    assert memory(registry.load_recipe("tiny_experts"), "fp32", 1, 8).optimizer == state


def test_scores_saved_for_dropout_alone_are_separate() -> None:
    plain, dropped = (
        memory(registry.load_recipe("tiny_decoder", {"decoder.layer.mixer.dropout": share}), "fp32", 2, 32)
        for share in (0.0, 0.5)
    )
    assert plain.dropout == 0
    assert sum(dropped.activations.values()) - dropped.dropout == sum(plain.activations.values())


@pytest.mark.slow
def test_activations_grow_with_the_batch_and_nothing_else_does() -> None:
    one, two = (memory(registry.load_recipe("tiny_encoder_decoder"), "fp32", batch, 16) for batch in (1, 2))
    assert (one.parameters, one.gradients, one.optimizer) == (two.parameters, two.gradients, two.optimizer)
    assert two.logits == 2 * one.logits
    assert sum(two.activations.values()) > 1.9 * sum(one.activations.values())


@pytest.mark.slow
def test_a_model_that_no_machine_holds_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "llama3_8b", "--memory", "--set", "decoder.depth=2", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["memory"]
    assert (found["batch"], found["length"]) == (1, 8192)
    fp32, true = found["bytes"]["fp32"], found["bytes"]["bf16-true"]
    assert fp32["parameters"] == 2 * true["parameters"]
    assert fp32["logits"] == rows_at_once(128256, 8192) * 128256 * 4


def test_the_table_says_what_is_largest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "tiny_encoder", "--memory", "--batch", "4", "--length", "16"]) == 0
    text = capsys.readouterr().out
    assert "training on 4 x 16 tokens" in text
    assert "largest in bf16-true: " in text
    assert "cache" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch", "2"], "--batch and --length require --memory or --activations"),
        (["--memory", "--length", "65"], "--length 65 is above the model's max_length of 64"),
        (["--memory", "--format", "yaml"], "--memory cannot be combined with --format yaml"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "tiny_decoder", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.parametrize(("numbers", "words"), [(0, "0 B"), (999, "999 B"), (1536, "1.5 KiB"), (5 << 30, "5 GiB")])
def test_a_size_is_easy_to_read(numbers: int, words: str) -> None:
    assert size(numbers) == words
