"""Every check finds a broken block, and working blocks pass."""

from collections.abc import Callable
from typing import Any
from unittest import SkipTest

import pytest

from blockformer.conformance import BlockCase, NotApplicable, checks_for, parametrize_checks, run_checks
from blockformer.conformance.block_case import SMALL
from blockformer.conformance.table import check_name, registered_checks
from blocks.models.base import Model
from registry import Block
from tests.conformance.broken import BROKEN, BidirectionalMean, CausalMean, Projection

SIZES = {**{key: SMALL[key] for key in ("dim", "vocab_size", "max_length")}, "decoder": {"depth": 2}}


@pytest.fixture
def registering(registry_of_a_test: Callable[..., Any]) -> Callable[[type[Any]], BlockCase]:
    """Registers a class for one test."""

    def registered(block: type[Block]) -> BlockCase:
        place = "causal" if "causal" in block.capabilities.places else next(iter(block.capabilities.places))
        registry_of_a_test(block.__name__.lower())(block)
        return BlockCase.of(block, SIZES if issubclass(block, Model) else {}, place)

    return registered


@pytest.mark.parametrize("block", [CausalMean, BidirectionalMean, Projection])
def test_a_working_block_passes(block: type[Block], registering: Callable[[type[Any]], BlockCase]) -> None:
    report = run_checks([registering(block)])
    assert report.good, report.to_markdown()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_block_is_found(name: str, registering: Callable[[type[Any]], BlockCase]) -> None:
    broken = BROKEN[name]
    case = registering(broken.block)
    if broken.host is not None:
        case = BlockCase(*broken.host)
    elif case.slot != "init":
        case.build_perturbed()  # the block itself is valid
    found = {check_name(check): check for check in checks_for(case)}
    for check in sorted(broken.checks):
        try:
            found[check](case)
        except NotApplicable:
            pytest.fail(f"{check} does not apply")
        except Exception:
            continue
        pytest.fail(f"{check} passes")


def test_every_check_has_a_broken_block_that_it_finds() -> None:
    checks = {check_name(check) for check in registered_checks()}
    found = {check for broken in BROKEN.values() for check in broken.checks}
    assert not checks - found, f"no block in tests/conformance/broken is caught by {sorted(checks - found)}"
    assert not found - checks, f"there is no check called {sorted(found - checks)}"


def test_a_failure_can_be_expected_with_its_reason(registering: Callable[[type[Any]], BlockCase]) -> None:
    case = registering(BROKEN["CountsHalfItsFlops"].block)
    id_ = f"{case.id}: flops_match_torch"
    (params,) = [mark.args[1] for mark in [parametrize_checks([case], expected_failures={id_: "twice"}).mark]]
    (marked,) = [param for param in params if param.marks]
    assert marked.id == id_
    assert marked.marks[0].kwargs == {"reason": "twice", "strict": True}
    with pytest.raises(ValueError, match="counts_sheep"):
        parametrize_checks([case], expected_failures={"counts_sheep": "there are none"})


def test_a_check_with_nothing_to_test_is_not_applicable_and_not_passed() -> None:
    report = run_checks(
        [BlockCase("norm", "none")], only=[c for c in registered_checks() if "dropout" in check_name(c)]
    )
    statuses = {outcome.check: outcome.status for outcome in report.outcomes}
    assert statuses["dropout_has_its_rate"] == statuses["dropout_acts_only_in_training"] == "not_applicable"
    assert report.good
    assert report.summary() == "3 checks: 1 passed, 2 not applicable"


def test_pytest_reports_a_check_that_does_not_apply_as_skipped() -> None:
    assert issubclass(NotApplicable, SkipTest)
