"""The places of models by which figures are reported."""

import pytest

import blockformer as bf
from blockformer.training.watch.places import parameters_by_place, places
from blocks.base import Layer
from registry import load_recipe
from tests.recipes.releases import DISTINCT


@pytest.mark.parametrize("recipe", DISTINCT)
def test_each_layer_is_a_place_and_each_parameter_belongs_to_one(recipe: str) -> None:
    model = bf.check(load_recipe(recipe))
    found = dict(places(model))
    layers = [path for path, part in model.named_modules() if isinstance(part, Layer)]
    assert layers == [path for path in found if path in layers]
    members = parameters_by_place(model)
    names = [name for parameters in members.values() for name, _ in parameters]
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sorted(names) == sorted(trained)
    assert all(name.startswith(place) for place, parameters in members.items() for name, _ in parameters)


def test_what_lies_outside_layers_has_its_own_places() -> None:
    assert list(parameters_by_place(bf.check(load_recipe("tiny_decoder")))) == [
        "embedding",
        "decoder.layers.0",
        "decoder.layers.1",
        "decoder.norm",
    ]
