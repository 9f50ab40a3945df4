"""Residuals of generated recipes are made to agree in their number of streams."""

from typing import Any

from blockformer.conformance.equal_streams import with_equal_streams
from blockformer.conformance.validate import validate

SIZES = {"type": "decoder_only", "dim": 32, "vocab_size": 41, "max_length": 16}
HYPER = {"type": "hyper", "streams": 2}


def test_a_recipe_with_one_stream_stays_as_it_is() -> None:
    layers: dict[str, Any] = {"a": "parallel", "b": {"mixer_residual": "post", "residual": "output"}}
    tree = {**SIZES, "decoder": {"depth": 2, "layers": layers, "pattern": ["a", "b"]}}
    assert with_equal_streams(tree) == tree


def test_all_sublayers_of_a_stack_get_a_residual_with_as_many_streams() -> None:
    layers: dict[str, Any] = {
        "a": {
            "mixer_residual": HYPER,
            "residual": "post",
            "feedforward_residual": {"type": "hyper_unmixed", "streams": 2},
        },
        "b": "consecutive",
    }
    tree = {**SIZES, "decoder": {"depth": 2, "layers": layers, "pattern": ["a", "b"]}}
    found = with_equal_streams(tree)["decoder"]["layers"]
    assert found["a"] == {**layers["a"], "residual": HYPER}
    assert found["b"] == {"type": "consecutive", "residual": HYPER}
    assert "post" in str(tree), "the recipe itself was changed"


def test_an_inner_residual_that_cannot_be_one_is_left_out() -> None:
    scaled = {"type": "scaled", "inner": {"type": "hyper_sinkhorn"}}
    for residual, expected in (({**HYPER, "inner": "post"}, HYPER), (scaled, scaled)):
        tree = {**SIZES, "decoder": {"depth": 2, "layer": {"feedforward_residual": residual}}}
        found = with_equal_streams(tree)
        assert found["decoder"]["layer"] == {"residual": expected, "feedforward_residual": expected}
        assert "residual/hyper" in " ".join(
            validate({**SIZES, "decoder": {"depth": 2, "layer": {"residual": expected}}}).choices
        )


def test_a_stack_with_alternating_updates_has_them_around_all_layers() -> None:
    layers: dict[str, Any] = {"a": {"residual": "post"}, "b": {"type": "altup", "streams": 2}, "c": {"type": "altup"}}
    tree = {**SIZES, "decoder": {"depth": 3, "layers": layers, "pattern": ["a", "b", "c"]}}
    found = with_equal_streams(tree)["decoder"]["layers"]
    assert found == {
        "a": {"type": "altup", "streams": 2, "inner": {"residual": "post"}},
        "b": layers["b"],
        "c": layers["b"],
    }
    validate({**tree, "decoder": {**tree["decoder"], "layers": found}})
