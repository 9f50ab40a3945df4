"""Which model a recipe describes: its hash outlives the blocks' growth, and copies of a model keep their specs."""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import pytest

import blockformer as bf
from blocks.base import Activation, Factory, Norm, Site, SitelessFactory
from blocks.norms.layer import LayerNorm
from blocks.norms.none import NoNorm
from registry import FirstDefault, PositiveFloat, Runtime, entries, load_recipe, parse, registration, spec_of

Register = Callable[[str], Callable[[type], type]]
COARSE = partial(LayerNorm, eps=1e-3)


@pytest.fixture
def released(registry_of_a_test: Register) -> Callable[[type[Norm]], None]:
    """Makes a class the norm ``growing``, as a new release of the package would."""

    def release(block: type[Norm]) -> None:
        known = {name: entry for name, entry in entries("norm").items() if name != "growing"}
        registration._ENTRIES["norm"] = known
        registry_of_a_test("growing")(block)

    return release


class First(NoNorm):
    def __init__(self, site: Site, *, eps: PositiveFloat = 1e-5) -> None:
        super().__init__(site)


class Grown(NoNorm):
    def __init__(
        self,
        site: Site,
        *,
        eps: PositiveFloat = 1e-5,
        bias: bool = False,
        inner: Factory[Norm] = LayerNorm,
        other: Factory[Norm] = COARSE,
        activation: SitelessFactory[Activation] | None = None,
        backend: Annotated[str, Runtime()] = "auto",
    ) -> None:
        super().__init__(site)


class Changed(NoNorm):
    def __init__(self, site: Site, *, eps: Annotated[PositiveFloat, FirstDefault(1e-5)] = 1e-6) -> None:
        super().__init__(site)


class Forgotten(NoNorm):
    def __init__(self, site: Site, *, eps: PositiveFloat = 1e-6) -> None:
        super().__init__(site)


def stored(params: dict[str, Any]) -> dict[str, Any]:
    return load_recipe("tiny_decoder", {"decoder.norm": {"type": "growing", **params}}).dump()


@pytest.mark.parametrize("params", [{}, {"eps": 1e-5}, {"eps": 0.5}])
def test_a_stored_recipe_keeps_its_hash_when_a_block_gains_parameters(
    released: Callable[[type[Norm]], None], params: dict[str, Any]
) -> None:
    released(First)
    before = stored(params)
    known = load_recipe(before).hash
    released(Grown)
    after = load_recipe(before)
    assert after.hash == known
    assert after.dump()["decoder"]["norm"].keys() > before["decoder"]["norm"].keys()


def test_a_gained_parameter_that_is_used_changes_the_hash(released: Callable[[type[Norm]], None]) -> None:
    released(Grown)
    plain = load_recipe(stored({})).hash
    used: list[dict[str, Any]] = [
        {"bias": True},
        {"inner": "rms"},
        {"inner": {"eps": 1e-3}},
        {"other": {"eps": 1e-5}},
        {"activation": "relu"},
    ]
    assert len({plain, *(load_recipe(stored(params)).hash for params in used)}) == 1 + len(used)
    assert load_recipe(stored({"backend": "eager"})).hash == plain


def test_a_stored_recipe_keeps_its_hash_when_a_default_changes_and_the_first_one_is_named(
    released: Callable[[type[Norm]], None],
) -> None:
    released(First)
    old, written = stored({}), stored({"eps": 1e-6})
    known, other = load_recipe(old).hash, load_recipe(written).hash
    assert known != other
    released(Changed)
    assert load_recipe(old).hash == known
    assert load_recipe(written).hash == load_recipe(stored({})).hash == other
    released(Forgotten)
    assert load_recipe(old).hash != known, "without FirstDefault, the old default counts as a change"


def test_a_default_block_stands_for_its_own_first_defaults(
    released: Callable[[type[Norm]], None], registry_of_a_test: Register
) -> None:
    released(First)

    class Holder(NoNorm):
        def __init__(self, site: Site, *, inner: Factory[Norm] = First) -> None:
            super().__init__(site)

    registry_of_a_test("holder")(Holder)
    old, changed = parse("norm", "holder").dump(), {"type": "holder", "inner": {"type": "growing", "eps": 1e-6}}
    known, other = parse("norm", old).hash, parse("norm", changed).hash
    released(Changed)
    assert (parse("norm", old).hash, parse("norm", changed).hash) == (known, other)


def test_copies_and_pickles_of_a_model_keep_the_specs_of_all_their_blocks() -> None:
    model = bf.build("tiny_decoder")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301  (made on the line)
        root = spec_of(other)
        assert root is not None
        assert root.hash == load_recipe("tiny_decoder").hash
        paths = {id(spec): path for path, spec in root.walk()}
        found = [spec_of(part) for _, part in other.components()]
        assert all(spec is not None and id(spec) in paths for spec in found)
    assert spec_of(copy.deepcopy(model)) is spec_of(model)
