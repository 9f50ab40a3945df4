"""Which source each training row of a mixture comes from."""

from collections.abc import Mapping
from fractions import Fraction
from math import gcd, lcm

import numpy as np
from numpy.typing import NDArray

from blockformer.errors import DataError

LONGEST = 100_000
"""Rows of a period at most."""


def whole_numbers(weights: Mapping[str, float]) -> list[int]:
    """The smallest whole numbers in the proportions of weights, which are taken as the decimal numbers they print as.

    Args:
        weights: Positive numbers, by source.

    Raises:
        DataError: The sum of the whole numbers is above `LONGEST`.
    """
    exact = [Fraction(str(weight)) for weight in weights.values()]
    unit = lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * unit) for weight in exact]
    whole = [weight // gcd(*whole) for weight in whole]
    if sum(whole) > LONGEST:
        shown = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
        raise DataError(
            f"data.sources: the weights ({shown}) repeat after {sum(whole):,} rows, and at most {LONGEST:,} are "
            "possible: round them"
        )
    return whole


class RowSchedule:
    """The source of each row, so that after any number of rows each source has had its share to within one row.

    With whole weights w_i of sum W, row j of source i has to come after row floor(j W / w_i) and before row
    ceil((j + 1) W / w_i) of all; the rows are given to the source whose window ends first (the fair schedules of Baruah
    et al. 1996, "Proportionate progress: a notion of fairness in resource allocation", for one processor). The shares
    are exact after W rows, so one period is computed and kept, and any row can be looked up.

    Args:
        weights: (S,) whole numbers above 0.
    """

    def __init__(self, weights: list[int]) -> None:
        self.weights = np.array(weights, np.int64)
        self._period = sum(weights)
        self._source = np.empty(self._period, np.int64)
        self._before = np.empty(self._period, np.int64)  # rows of the same source that come before in the period
        given = [0] * len(weights)
        for row in range(self._period):
            ready = (i for i, weight in enumerate(weights) if given[i] * self._period < (row + 1) * weight)
            chosen = min(ready, key=lambda i: -(-(given[i] + 1) * self._period // weights[i]))
            self._source[row], self._before[row] = chosen, given[chosen]
            given[chosen] += 1

    def source(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The source of each row, of any number."""
        return self._source[rows % self._period]

    def number(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many rows of its own source come before each row."""
        period, place = np.divmod(rows, self._period)
        return period * self.weights[self._source[place]] + self._before[place]

    def counts(self, rows: int) -> NDArray[np.int64]:
        """(S,) how many of the first rows come from each source."""
        periods, rest = divmod(rows, self._period)
        return periods * self.weights + np.bincount(self._source[:rest], minlength=len(self.weights))
