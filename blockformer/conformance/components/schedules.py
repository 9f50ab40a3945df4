"""A schedule gives a share of the peak for every step, and nothing but its arguments decides it."""

from collections.abc import Iterator

from blockformer.conformance.block_case import BlockCase, NotApplicable
from blockformer.conformance.components.examples import made
from blockformer.training.optimizers import Schedule

WARMUPS, TOTALS = (0, 1, 10), (1, 10, 11, 250)


def check_factor_is_a_share_of_the_peak(case: BlockCase) -> None:
    """From the end of the warm-up to far beyond the end of the run, the factor is from 0 to 1; before it, above 0."""
    schedule = made(case, Schedule)
    for warmup, total in _runs(schedule):
        for step in (*range(max(1, warmup), total + 30), 10**6, 2**40):
            factor = schedule.factor(step, warmup, total)
            where = f"factor(step={step}, warmup={warmup}, total={total}) is {factor}"
            assert 0 <= factor <= 1, f"{where}, not from 0 to 1"
            assert factor > 0 or step >= total, f"{where} before the end of the run"


def check_factor_is_a_pure_function(case: BlockCase) -> None:
    """The factors are the same in any order, and from another component with these parameters."""
    schedule, other = made(case, Schedule), made(case, Schedule)
    for warmup, total in _runs(schedule):
        steps = range(max(1, warmup), total + 5)
        forwards = [schedule.factor(step, warmup, total) for step in steps]
        backwards = [other.factor(step, warmup, total) for step in reversed(steps)]
        assert forwards == backwards[::-1], f"warmup={warmup}, total={total}: the factors depend on earlier calls"


def check_reads_the_length_only_if_it_says_so(case: BlockCase) -> None:
    """Without `needs_length` the factor is the same for all lengths of the run, an unknown one (0) included."""
    schedule = made(case, Schedule)
    if schedule.needs_length:
        raise NotApplicable("the schedule reads the length of the run")
    for step in (10, 11, 100, 1000):
        factors = {schedule.factor(step, 10, total) for total in (0, 50, 2000)}
        assert len(factors) == 1, f"factor({step}, 10, total) depends on total: return True from needs_length"


def _runs(schedule: Schedule) -> Iterator[tuple[int, int]]:
    """Lengths of warm-ups and of runs; 0: the length is not known."""
    for total in (*TOTALS, *(() if schedule.needs_length else (0,))):
        yield from ((warmup, total) for warmup in WARMUPS if warmup <= total or not total)
