"""Every block passes every check that applies to it."""

import pytest

from blockformer.conformance import Check, Subject, checks, parametrize_checks, registered
from blockformer.conformance.table import LONG

SAMPLE = ("mixer/attention/causal", "mixer/gated_delta/causal", "feedforward/moe", "model/")  # of the long ones


def sampled() -> list[Subject]:
    return [subject for subject in registered("blocks") if subject.id.startswith(SAMPLE)]


@parametrize_checks(registered("blocks"), without=LONG)
def test_block(subject: Subject, check: Check) -> None:
    check(subject)


@parametrize_checks(sampled(), only=LONG)
def test_some_blocks_at_length(subject: Subject, check: Check) -> None:
    check(subject)


@pytest.mark.slow
@parametrize_checks(registered("blocks"), only=LONG)
def test_block_at_length(subject: Subject, check: Check) -> None:
    check(subject)


def test_every_slot_has_its_checks() -> None:
    found = {subject.slot: checks(subject) for subject in registered("blocks")}
    assert {"mixer", "feedforward", "norm", "model", "init"} <= set(found)
    assert min(map(len, found.values())) >= 4
