"""Every block holds what it promises at every one of its options, each tried alone."""

from contextlib import suppress
from unittest import SkipTest

import pytest

from blockformer.conformance import BlockCase, Check, block_cases, pairs, registered
from blockformer.conformance.checks.compilation import check_backends_agree
from blockformer.conformance.recipe_checks import ALWAYS, SharedCase
from blockformer.conformance.table import MODULE, ONCE, check_name
from blockformer.conformance.variants import variants
from registry import entries


def all_variants() -> list[BlockCase]:
    """Backends are compared by their own check, and on a CPU flex has no gradient."""
    found = {variant.id: variant for case in registered("blocks") for variant in variants(case)}
    return [variant for variant in found.values() if variant.params.get("backend") is None]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Finding the variants takes seconds: it is left out where the slow tests are."""
    if "case" in metafunc.fixturenames:
        chosen = [] if metafunc.config.getoption("markexpr") == "not slow" else all_variants()
        metafunc.parametrize("case", [pytest.param(variant, id=variant.id) for variant in chosen])


def left_out(case: BlockCase) -> frozenset[Check]:
    """Checks that the options of a block need not repeat.

    What does not depend on the place runs at the first of them. So do comparisons of backends, which the block without
    options has at all places. Only mixers compute scores.
    """
    first = case.place == block_cases(case.slot, case.name)[0].place
    repeated = set() if first else {*MODULE, check_backends_agree}
    return ONCE | repeated | (set() if case.slot == "mixer" else {check_backends_agree})


@pytest.mark.slow
def test_an_option_breaks_nothing_at_any_place(case: BlockCase) -> None:
    expected, shared = entries(case.slot)[case.name].block.expected_failures, SharedCase(**vars(case))
    for _, check in pairs([case], without=left_out(case)):
        if f"{case.id}: {check_name(check)}" in expected:
            with pytest.raises(AssertionError):
                check(case)
            continue
        with suppress(SkipTest):  # a check that finds nothing to test does not end the others
            check(shared if check_name(check) in ALWAYS else case)


def test_options_are_read_off_the_signature() -> None:
    found = {variant.id for variant in variants(BlockCase("mixer", "attention"))}
    assert {
        f"mixer/attention/causal[{option}]" for option in ("kv_heads=2", "window=3", "bias=True", "qk_norm=rms")
    } <= found
    assert "mixer/attention/causal[heads=3]" not in found, "32 channels do not make 3 heads"


def test_an_option_that_one_place_refuses_is_tried_at_another() -> None:
    (found,) = (one for one in variants(BlockCase("embedding", "token")) if one.params.get("neighbors") == 2)
    assert found.place == "bidirectional"


@pytest.mark.slow
def test_different_variants_have_different_ids() -> None:
    found: dict[str, BlockCase] = {}
    for case in registered("blocks"):
        for variant in [case, *variants(case)]:
            assert found.setdefault(variant.id, variant) == variant
