"""Every block passes every check that applies to it."""

import pytest

from blockformer.conformance import BlockCase, Check, checks_for, parametrize_checks, registered
from blockformer.conformance.table import LONG

SAMPLE = ("mixer/attention/causal", "mixer/gated_delta/causal", "feedforward/moe", "model/")  # of the long ones


def sampled() -> list[BlockCase]:
    return [case for case in registered("blocks") if case.id.startswith(SAMPLE)]


@parametrize_checks(registered("blocks"), without=LONG)
def test_block(case: BlockCase, check: Check) -> None:
    check(case)


@parametrize_checks(sampled(), only=LONG)
def test_some_blocks_at_length(case: BlockCase, check: Check) -> None:
    check(case)


@pytest.mark.slow
@parametrize_checks(registered("blocks"), only=LONG)
def test_block_at_length(case: BlockCase, check: Check) -> None:
    check(case)


def test_every_slot_has_its_checks() -> None:
    found = {case.slot: checks_for(case) for case in registered("blocks")}
    assert {"mixer", "feedforward", "norm", "model", "init"} <= set(found)
    assert min(map(len, found.values())) >= 4
