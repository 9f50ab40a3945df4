"""The speed phase: variants in turns, measured once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from blockformer.data.samples import Batch, Samples, TokenizedText
from blockformer.studies import speed
from blockformer.studies.execution import Executor
from blockformer.studies.plan import Plan, make_plan
from blockformer.studies.sentences import speed_sentence
from blockformer.studies.speed import SPEED, speed_of
from blockformer.studies.study import read_study
from blockformer.studies.training_step import TrainingStep, peak_memory
from blockformer.training.objectives import CausalLM
from blocks.models.base import Model
from registry import load_recipe

FIT = {"data": {"batch_size": 4, "length": 16}, "trainer": {"max_steps": 10, "accelerator": "cpu"}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "ROUNDS", 2)
    monkeypatch.setattr(speed, "SHORTEST", 0.0)


@pytest.fixture(scope="module")
def plan() -> Plan:
    variants = {"deep": {"decoder.depth": 6}, "same": {"decoder.depth": 4}}
    return make_plan(read_study({"base": "tiny_decoder", "variants": variants, "fit": FIT}))


@pytest.mark.slow
def test_speed_is_measured_once_unless_asked_again(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = Executor(tmp_path, "study", "val/loss")
    first = speed_of(plan, executor, tmp_path, "once")
    assert list(first["speed"]) == plan.trained
    for name, of in first["speed"].items():
        assert of["tokens_per_second"] > 0
        assert of["relative_low"] <= of["relative"] <= of["relative_high"], name
        assert len(of["rounds"]) == 2
    assert first["speed"]["base"]["relative"] == 1.0
    assert first["speed"]["deep"]["peak_memory"] > first["speed"]["base"]["peak_memory"]
    assert speed_of(plan, executor, tmp_path, "once") == json.loads(json.dumps(first))
    again = speed_of(plan, executor, tmp_path, "again")
    assert again["speed"] != first["speed"]
    assert speed_of(plan, executor, tmp_path, "once") == json.loads(json.dumps(again))
    assert speed_of(plan, executor, tmp_path, "never") == {}

    here = {key: str(value) for key, value in again["speed_environment"].items()}
    said = speed_sentence({**again, "environment": again["speed_environment"]})
    assert "in terms of the base: deep " in said
    assert "computed elsewhere" not in said
    assert "another processor)" in speed_sentence({**again, "environment": {**here, "processor": "another"}})


def test_a_measurement_that_fails_is_noted(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*args: Any) -> None:
        raise RuntimeError("not enough memory\nand more")

    monkeypatch.setattr(speed, "measured", fails)
    assert speed_of(plan, Executor(tmp_path, "study", "val/loss"), tmp_path, "once") == {}
    assert capsys.readouterr().err == "note: the speed could not be measured: not enough memory\n"
    assert not (tmp_path / SPEED).exists()


def test_peak_memory_holds_weights_gradients_moments_and_activations() -> None:
    recipe = load_recipe("tiny_decoder")
    held = 16 * TrainingStep(recipe, FIT, 16).model.size
    small, large = (peak_memory(recipe, {**FIT, "data": {"batch_size": rows}}, 16) for rows in (4, 64))
    assert held < small < large
    assert peak_memory(recipe, {**FIT, "data": {"batch_size": 4}}, 16) == small


@pytest.mark.parametrize("name", ["tiny_decoder", "tiny_encoder", "tiny_encoder_decoder", "tiny_experts"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_trains_models_of_every_kind(name: str, precision: str) -> None:
    trainer = {"accelerator": "cpu", "precision": precision, "accumulate_grad_batches": 2, "gradient_clip_val": 1.0}
    step = TrainingStep(load_recipe(name), {"data": {"batch_size": 3}, "trainer": trainer}, 8)
    before = [parameter.detach().clone() for parameter in step.model.parameters()]
    step()
    assert step.tokens == 2 * 3 * 8 * (2 if "encoder_decoder" in name else 1)
    assert any(not old.equal(new) for old, new in zip(before, step.model.parameters(), strict=True))


def test_a_step_of_an_objective_whose_batches_have_more_reads_its_data(
    registry_of_a_test: Callable[..., Any], text: Path
) -> None:
    class Weighted(CausalLM):
        """Predicts the next token, with weights that its batches have."""

        keys = ("tokens", "targets", "weights")

        def samples(self, text: TokenizedText) -> Samples:
            rows = super().samples(text)
            batch = rows.batch
            rows.batch = lambda chosen, epoch: {**batch(chosen, epoch), "weights": torch.ones(len(chosen))}
            return rows

        def __call__(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
            assert batch["weights"].shape == (3,)
            return super().__call__(model, batch)

    registry_of_a_test("weighted")(Weighted)
    data = {"dataset": "text", "files": [str(text)], "tokenizer": "bytes", "batch_size": 3}
    step = TrainingStep(
        load_recipe("tiny_decoder"),
        {"data": data, "objective": {"type": "weighted"}, "trainer": {"accelerator": "cpu"}},
        8,
    )
    step()
    assert step.tokens == 3 * 8
