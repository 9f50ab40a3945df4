"""Express differences in steps: how long the base would have to train to reach the result of a variant."""

import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import mean

from blockformer.studies.run_result import Result

LEAST = 3  # budgets with finished runs


def base_curve(answers: Sequence[Result], budgets: Sequence[tuple[float, Result]], base: str) -> list[list[float]]:
    """Share of the steps and mean figure of the base, ascending; only runs that finished count.

    Every point is the mean over the seeds that have all budgets.
    """
    runs = [(1.0, result) for result in answers if result.variant == base] + list(budgets)
    table: dict[float, dict[int, float]] = {}
    for share, result in runs:
        if result.figure is not None:
            table.setdefault(share, {})[result.seed] = result.figure
    seeds = set.intersection(*(set(of) for of in table.values())) if table else set[int]()
    return [[share, mean(of[seed] for seed in seeds)] for share, of in sorted(table.items())] if seeds else []


def worth(curve: Sequence[Sequence[float]], verdict: Mapping[str, float | None]) -> dict[str, float | None] | None:
    """The share of the study's steps with which the base reaches the variant's figure, and its interval.

    Between the budgets the figure is taken as linear in the logarithm of the steps.

    Args:
        curve: of the base, see :func:`base_curve`.
        verdict: with `difference`, `low` and `high`.

    Returns:
        `steps`, `low` and `high`; each None where it lies outside of the budgets. None: the base's figure is not
        monotone in its budget, as its noise is larger than what steps change, or runs are missing.
    """
    figures = [figure for _, figure in curve]
    rising = all(a < b for a, b in itertools.pairwise(figures))
    falling = all(a > b for a, b in itertools.pairwise(figures))
    if len(curve) < LEAST or not (rising or falling):
        return None
    at_one = next(figure for share, figure in curve if share == 1)
    found = {
        name: _steps(curve, at_one + difference)
        for name, key in (("steps", "difference"), ("one", "low"), ("other", "high"))
        if (difference := verdict[key]) is not None
    }
    ends = (found.get("one"), found.get("other"))
    low, high = ends if rising else ends[::-1]
    return {"steps": found.get("steps"), "low": low, "high": high}


def _steps(curve: Sequence[Sequence[float]], figure: float) -> float | None:
    for (share, here), (next_share, there) in itertools.pairwise(curve):
        if min(here, there) <= figure <= max(here, there):
            along = (figure - here) / (there - here)
            return share * math.exp(along * math.log(next_share / share))
    return None
