"""Every block holds what it promises at every one of its options, each tried alone."""

import pytest

from blockformer.conformance import Check, Subject, checks, pairs, registered
from blockformer.conformance.table import ONCE, name_of
from blockformer.conformance.variants import variants

QUICK = {
    "is_the_same_when_built_on_meta",
    "is_precise_in_float32",
    "takes_nothing",
    "gradients_reach_every_parameter",
    "sees_no_future",
    "ignores_padding_row_by_row",
    "ignores_padding_of_the_memory",
    "keeps_documents_apart",
    "decodes_in_chunks",
    "counts_its_cache",
}


def all_variants() -> list[Subject]:
    """Backends are compared by their own check, and on a CPU flex has no gradient."""
    found = {variant.id: variant for subject in registered("blocks") for variant in variants(subject)}
    return [variant for variant in found.values() if variant.params.get("backend") is None]


def applying(subject: Subject) -> dict[str, Check]:
    return {name_of(check): check for _, check in pairs([subject], without=ONCE)}


@pytest.mark.parametrize("subject", [pytest.param(v, id=v.id) for v in all_variants() if v.place != "bidirectional"])
def test_an_option_breaks_nothing(subject: Subject) -> None:
    for name, check in applying(subject).items():
        if name in QUICK:
            check(subject)


@pytest.mark.slow
@pytest.mark.parametrize("subject", [pytest.param(v, id=v.id) for v in all_variants()])
def test_an_option_breaks_nothing_at_any_place(subject: Subject) -> None:
    for check in applying(subject).values():
        check(subject)


def test_options_are_read_off_the_signature() -> None:
    found = {variant.id for variant in variants(Subject("mixer", "attention"))}
    assert {
        f"mixer/attention/causal[{option}]" for option in ("kv_heads=2", "window=3", "bias=True", "qk_norm=rms")
    } <= found
    assert "mixer/attention/causal[heads=3]" not in found, "32 channels do not make 3 heads"
    assert len(checks(Subject("mixer", "attention"))) > len(QUICK)
