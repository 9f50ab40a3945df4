"""Every block holds what it promises at every one of its options, each tried alone."""

from contextlib import suppress
from unittest import SkipTest

import pytest

from blockformer.conformance import BlockCase, Check, checks_for, pairs, registered
from blockformer.conformance.table import ONCE, check_name
from blockformer.conformance.variants import variants

QUICK = {
    "computes_the_same_when_built_on_meta",
    "float32_matches_float64",
    "accepts_empty_inputs",
    "gradients_reach_every_parameter",
    "is_causal",
    "ignores_padding_of_each_row",
    "ignores_memory_padding",
    "packed_documents_are_independent",
    "decodes_in_chunks",
    "cache_size_is_as_declared",
}


def all_variants() -> list[BlockCase]:
    """Backends are compared by their own check, and on a CPU flex has no gradient."""
    found = {variant.id: variant for case in registered("blocks") for variant in variants(case)}
    return [variant for variant in found.values() if variant.params.get("backend") is None]


def checks_of_recipe(case: BlockCase) -> dict[str, Check]:
    return {check_name(check): check for _, check in pairs([case], without=ONCE)}


@pytest.mark.parametrize("case", [pytest.param(v, id=v.id) for v in all_variants() if v.place != "bidirectional"])
def test_an_option_breaks_nothing(case: BlockCase) -> None:
    run([check for name, check in checks_of_recipe(case).items() if name in QUICK], case)


@pytest.mark.slow
@pytest.mark.parametrize("case", [pytest.param(v, id=v.id) for v in all_variants()])
def test_an_option_breaks_nothing_at_any_place(case: BlockCase) -> None:
    done = QUICK if case.place != "bidirectional" else set[str]()  # by the test above
    run([check for name, check in checks_of_recipe(case).items() if name not in done], case)


def run(found: list[Check], case: BlockCase) -> None:
    for check in found:
        with suppress(SkipTest):  # a check that finds nothing to test does not end the others
            check(case)


def test_options_are_read_off_the_signature() -> None:
    found = {variant.id for variant in variants(BlockCase("mixer", "attention"))}
    assert {
        f"mixer/attention/causal[{option}]" for option in ("kv_heads=2", "window=3", "bias=True", "qk_norm=rms")
    } <= found
    assert "mixer/attention/causal[heads=3]" not in found, "32 channels do not make 3 heads"
    assert len(checks_for(BlockCase("mixer", "attention"))) > len(QUICK)


def test_different_variants_have_different_ids() -> None:
    found: dict[str, BlockCase] = {}
    for case in registered("blocks"):
        for variant in [case, *variants(case)]:
            assert found.setdefault(variant.id, variant) == variant
