import pytest
import torch

import blockformer as bf
from blockformer.errors import UserError
from blockformer.training.parallel.plan import make_plan
from blocks.models.base import Model
from registry import load_recipe


def model(*overrides: str) -> Model:
    return bf.check(load_recipe("tiny_decoder", ["decoder.depth=1", "decoder.layer.mixer.heads=4", *overrides]))


def test_parameters_are_cut_as_their_blocks_declare() -> None:
    cuts = make_plan(model("decoder.layer.feedforward=mlp", "decoder.layer.mixer.sinks=true"), 2).cuts
    layer = "decoder.layers.0"
    attention = {f"{layer}.mixer.{name}.weight": -2 for name in "qkv"} | {f"{layer}.mixer.out.weight": -1}
    mlp = {f"{layer}.feedforward.{name}": -1 for name in ("up.bias", "down.weight")}
    assert cuts == {**attention, f"{layer}.mixer.sinks": 0, **mlp, f"{layer}.feedforward.up.weight": -2}


def test_gradients_of_what_all_heads_share_are_added_up() -> None:
    made = make_plan(model("decoder.layer.mixer.qk_norm=rms"), 2)
    assert made.partial == {f"decoder.layers.0.mixer.{name}.weight" for name in ("q_norm", "k_norm")}


def test_a_norm_over_all_heads_keeps_its_mixer_whole() -> None:
    made = make_plan(model("decoder.layer.mixer.qk_norm=rms", "decoder.layer.mixer.qk_norm_over=projection"), 2)
    assert "mixer attention" in made.whole
    assert not any("mixer" in name for name in made.cuts)


@pytest.mark.parametrize(
    ("overrides", "parts", "message"),
    [
        ((), 3, "4 heads, which is not a multiple of the 3"),
        (("decoder.layer.mixer.kv_heads=1",), 2, "1 key heads, which is not a multiple of the 2"),
        (("decoder.layer.feedforward.hidden=33",), 2, "33 units, which is not a multiple of the 2"),
        (
            ("decoder.layer.mixer=gated_delta", "decoder.layer.feedforward=none"),
            2,
            "no block of this model can be split",
        ),
    ],
)
def test_what_does_not_divide_is_refused(overrides: tuple[str, ...], parts: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_plan(model(*overrides), parts)


def test_a_plan_takes_no_memory() -> None:
    made = make_plan(model(), 2)
    assert all(model().get_parameter(name).device == torch.device("meta") for name in made.cuts)
