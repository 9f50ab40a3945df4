"""Every recipe that comes with the project, whole: what its blocks hold alone, they hold together."""

import pytest

import blocks
from blocks.conformance import Check, Subject, parametrize_checks
from blocks.conformance.building import check_builds_from_its_name
from blocks.conformance.computing import check_backends_agree, check_compiles
from blocks.conformance.gradients import check_gradients_are_right
from blocks.conformance.repeating import check_drops_out_only_in_training
from blocks.conformance.shrinking import shrunk
from registry import installed, load

NAMES = sorted(installed())
# Blocks alone have passed these, which take long for a whole model.
ALONE = (check_builds_from_its_name, check_compiles, check_gradients_are_right, check_drops_out_only_in_training)


def small(name: str) -> Subject:
    recipe = load(name)
    return shrunk(recipe, blocks.check(recipe))


SMALL = {name: small(name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_shrunk_recipe_has_the_blocks_of_the_whole_one(name: str) -> None:
    def kinds(subject_or_spec: object) -> set[str]:
        spec = subject_or_spec.spec if isinstance(subject_or_spec, Subject) else subject_or_spec
        return {f"{part.entry.slot}/{part.entry.name}" for _, part in spec.walk()}

    assert kinds(SMALL[name]) == kinds(load(name).spec)
    assert sum(p.numel() for p in SMALL[name].make().parameters()) < 300_000


@parametrize_checks(
    SMALL.values(),
    without=ALONE,
    expected_failures={"tiny_local_global: counts_its_flops": "torch counts the whole square, we the window"},
)
def test_whole(subject: Subject, check: Check) -> None:
    check(subject)


@pytest.mark.slow
@parametrize_checks(SMALL.values(), only=(*ALONE, check_backends_agree))
def test_whole_at_length(subject: Subject, check: Check) -> None:
    check(subject)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_where_it_comes_from(name: str) -> None:
    text = installed()[name].read_text()
    comment = " ".join(line.lstrip("# ") for line in text.splitlines()[1:] if line.startswith("#"))
    assert len(comment) > 40, "the second line says what the recipe is"


@pytest.mark.parametrize(
    ("name", "published"),
    [("transformer", 63.0e6), ("gpt2", 124.4e6), ("llama3_8b", 8.03e9), ("bert_base", 109.5e6)],
)
def test_a_model_has_the_published_number_of_parameters(name: str, published: float) -> None:
    assert blocks.check(load(name)).size == pytest.approx(published, rel=2e-3)
