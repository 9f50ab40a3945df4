"""For every block, also one of a plug-in, a small model that has it; and a page that shows it."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

import blockformer as bf
import registry
from blockformer.errors import UserError
from blockformer.inspection.diagram import layer_diagram
from blockformer.inspection.rendering import as_text
from blockformer.reference.pages import pages
from blockformer.reference.pictures import picture_of_block, picture_of_model
from blockformer.reference.small_recipe import small_recipe
from blockformer.reference.uses import families_by_block, groups_by_block
from blocks.base import Norm, Site
from registry import PositiveFloat
from registry.strict_yaml import parse_text
from tests.docs.snippets import snippets


class Halving(Norm):
    """x / by, whatever its size.

    Args:
        by: the divisor.
    """

    formula = "y = x / by"

    def __init__(self, site: Site, *, by: PositiveFloat = 2.0) -> None:
        super().__init__(site)
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x / self.by


class Misspelt(Halving):
    """x / by, with a formula that cannot be read.

    Args:
        by: the divisor.
    """

    formula = "y = (x / by"


BLOCKS = {"halving_for_test": Halving}


@pytest.mark.parametrize(
    ("slot", "name", "key"),
    [
        ("norm", "halving_for_test", "decoder.layer.residual.norm"),
        ("mixer", "fourier", "encoder.layer.mixer"),
        ("mixer", "cross_attention", "decoder.layer.cross"),
        ("rotary_scaling", "yarn", "decoder.layer.mixer.positions.scaling"),
        ("pooling", "mean", "head.pooling"),
    ],
)
def test_a_block_stands_in_its_usual_place(slot: str, name: str, key: str) -> None:
    recipe = registry.load_recipe(parse_text(small_recipe(slot, name), name))
    bf.check(recipe)
    found = {".".join(map(str, path)): (spec.entry.slot, spec.entry.name) for path, spec in recipe.spec.walk()}
    assert found[key] == (slot, name)


@pytest.mark.slow
def test_a_plug_in_has_its_formula_and_its_model_on_the_page() -> None:
    section = pages()["norm.md"].partition("## halving_for_test\n")[2].partition("\n## ")[0]
    found = {snippet.language: snippet.code for snippet in snippets(section)}
    assert found["formula"] == "y = x / by\n"
    assert "norm: halving_for_test" in section


def test_a_formula_that_cannot_be_read_is_refused(registry_of_a_test: Callable[..., Any]) -> None:
    registry_of_a_test("misspelt_for_test")(Misspelt)
    with pytest.raises(UserError, match=r"norm misspelt_for_test: formula: .* is missing"):
        pages()


def test_the_uses_of_a_block_are_found() -> None:
    assert "deepseek" in groups_by_block()["mixer", "latent"]
    assert "gpt2" not in groups_by_block()["mixer", "latent"]
    assert {"deepseek_v2", "deepseek_v3"} <= set(families_by_block()["mixer", "latent"])
    assert set(families_by_block()["mixer", "ssd"]) >= {"mamba2"}


def test_a_picture_of_a_block_shows_its_layer_alone() -> None:
    recipe = registry.load_recipe("tiny_decoder")
    drawing = layer_diagram(bf.check(recipe), "feedforward", "glu")
    assert drawing is not None
    assert "feedforward: glu" in as_text(drawing)
    assert "embedding" not in as_text(drawing)
    assert picture_of_block(recipe, "head", "tied") == picture_of_model(recipe)
