"""`blockformer plan`."""

import json
from typing import Any

import pytest
from torch import Tensor

import blockformer as bf
import registry
from blockformer.cli.main import main
from blockformer.inspection.device_plan import DevicePlan, Layout
from blockformer.training.activation_checkpointing import checkpoint_layers
from blockformer.training.optimizers import OptimizerSettings
from tests.inspection.test_memory import really_saved

ALONE = Layout("one device", 1, 1, sharded=False)


@pytest.mark.parametrize("name", ["tiny_decoder", "tiny_encoder_decoder", "tiny_experts", "tiny_hybrid"])
def test_one_process_keeps_what_is_planned(name: str) -> None:
    recipe = registry.load_recipe(name)
    need = DevicePlan(recipe, "fp32", 24, fused=False).need(ALONE, 4)
    model = bf.build(recipe).train()
    saved = really_saved(model, 4, 24, "fp32")
    optimizer = OptimizerSettings().make(model, fused=False)
    optimizer.step()
    state: list[Any] = [value for held in optimizer.state.values() for value in held.values()]
    tensors: list[Tensor] = [*model.parameters(), *(one.grad for one in model.parameters() if one.grad is not None)]
    kept = saved + sum(tensor.nbytes for tensor in (*tensors, *state))
    logits = 4 * 24 * model.vocab_size * 4  # which the loss has beside what it saves
    assert need.total == pytest.approx(kept + logits, rel=0.1)


def test_fsdp2_keeps_an_equal_part_and_ddp_all() -> None:
    plan = DevicePlan(registry.load_recipe("tiny_decoder"), "fp32", 16)
    alone, ddp = plan.need(ALONE, 2), plan.need(Layout("ddp", 4, 1, sharded=False), 8)
    sharded = plan.need(Layout("fsdp2", 4, 1, sharded=True), 8)
    assert (ddp.parameters, ddp.optimizer, ddp.activations) == (alone.parameters, alone.optimizer, alone.activations)
    assert ddp.exchange == ddp.gradients
    for part in ("parameters", "gradients", "optimizer"):
        assert getattr(sharded, part) == -(-getattr(ddp, part) // 4)
    assert sharded.activations == ddp.activations


def test_tensor_parallelism_keeps_a_part_of_what_it_splits() -> None:
    plan = DevicePlan(registry.load_recipe("tiny_decoder"), "fp32", 16)
    alone, split = plan.need(ALONE, 2), plan.need(Layout("tensor_parallel", 1, 2, sharded=False), 2)
    layers = sum(one.numel() for name, one in plan.model.named_parameters() if one.ndim > 1 and ".layers." in name)
    assert alone.parameters - split.parameters == pytest.approx(4 * layers / 2, rel=0.1)
    assert alone.activations / 2 < split.activations < alone.activations


@pytest.mark.slow
def test_devices_that_split_layers_can_keep_a_part_of_the_tokens() -> None:
    recipe, layout = registry.load_recipe("tiny_decoder", ["dim=64"]), Layout("tensor_parallel", 1, 2, sharded=False)
    whole = DevicePlan(recipe, "fp32", 32).need(layout, 4)
    split = DevicePlan(recipe, "fp32", 32, tokens=True).need(layout, 4)
    assert split.parameters == whole.parameters
    assert split.activations < 0.8 * whole.activations
    assert split.sent > whole.sent


def test_checkpointed_layers_keep_what_is_planned_and_one_is_computed_again() -> None:
    recipe = registry.load_recipe("tiny_decoder", ["decoder.depth=4"])
    model = bf.build(recipe).train()
    whole = really_saved(model, 4, 24, "fp32")
    checkpoint_layers(model, "layer")
    kept = really_saved(model, 4, 24, "fp32")
    need = DevicePlan(recipe, "fp32", 24, fused=False, checkpointing="layer").need(ALONE, 4)
    without = DevicePlan(recipe, "fp32", 24, fused=False).need(ALONE, 4)
    assert without.total - need.total == pytest.approx((whole - kept) * 3 / 4, rel=0.1)


def test_what_fits_with_checkpointing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "tiny_decoder", "--memory", "6MB", "--batch", "16", "--precision", "fp32"]
    assert main([*words, "--set", "max_length=64"]) == 0
    assert "one device: does not fit; fits with --model.checkpointing" in capsys.readouterr().out


def test_what_does_not_fit_has_a_batch_that_does() -> None:
    plan = DevicePlan(registry.load_recipe("tiny_decoder"), "fp32", 32)
    layout = Layout("ddp", 2, 1, sharded=False)
    available = plan.need(layout, 8).total
    found = plan.smaller_batch(layout, 64, available)
    assert found is not None
    assert found.rows == 4
    assert plan.smaller_batch(layout, 64, 1000) is None
    more = plan.more_devices(2, 64, available)
    assert more is not None
    assert more[1].total <= available


@pytest.mark.slow
def test_the_table_has_a_row_for_each_way_and_says_what_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "tiny_decoder", "--devices", "8", "--memory", "1.1MB", "--batch", "64", "--length", "16"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "8 devices" in text
    assert "ddp: does not fit; fits with --data.batch_size" in text
    assert "tensor_parallel: is not possible: decoder.layers.0.mixer.q.weight has 4 heads" in text
    assert "fsdp2 4 x tensor_parallel 2" in text
    assert "TFLOP/s (its maker's)" in text


@pytest.mark.slow
def test_json_has_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "tiny_decoder", "--format", "json", "--batch", "3", "--length", "8", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = found["layouts"]
    assert (row["name"], row["rows"], row["fits"]) == ("one device", 3, True)
    seconds = found["seconds_at_share_of_peak"]
    assert seconds["0.25"] == pytest.approx(4 * seconds["1"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--memory", "80"], "must be a size such as 80GB"), (["--devices", "0"], "must be a positive whole number")],
)
def test_a_mistake_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "tiny_decoder", *arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_length_that_the_model_does_not_take_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "tiny_decoder", "--length", "9999"]) == 2
    assert "--length 9999 is above the model's max_length" in capsys.readouterr().err
