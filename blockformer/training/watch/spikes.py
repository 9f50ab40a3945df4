"""Which steps of a run stand out, by a rule on the steps before."""

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

STEPS = 100
"""Steps before, of which the median is taken."""
LEAST = 20
"""Steps that there must be before any is judged."""
NORMAL = 1.4826
"""The standard deviation of a normal distribution over its median absolute deviation."""
FLOOR = 0.02
"""Least deviation, as a share of the median, so that nothing stands out of a curve that hardly moves."""


class SpikeRule:
    """Finds spikes of one figure: values above median + factor * deviation of the last 100 finite values.

    The deviation is 1.4826 times the median absolute deviation, which few outliers do not change, and at least 2 % of
    the median. A spike joins the values that later ones are compared with, so that a new level soon is the usual one.

    Args:
        factor: in deviations.

    Attributes:
        begun: spikes so far; steps in a row that stand out are one spike.
        above: whether the last value stood out.
    """

    def __init__(self, factor: float) -> None:
        self.factor, self.begun, self.above = factor, 0, False
        self._before: deque[float] = deque(maxlen=STEPS)

    @property
    def before(self) -> list[float]:
        """The values that the next one is compared with, the oldest first."""
        return list(self._before)

    def remember(self, values: Iterable[float]) -> None:
        """Compare with these from now on."""
        self._before = deque((value for value in values if math.isfinite(value)), maxlen=STEPS)

    def judge(self, value: float) -> float | None:
        """Take the value of a step; the median that it stands out of, or None if it does not."""
        if not math.isfinite(value):
            return None
        usual, stands_out = math.nan, False
        if len(self._before) >= LEAST:
            usual = median(self._before)
            deviation = NORMAL * median(abs(one - usual) for one in self._before)
            stands_out = value > usual + self.factor * max(deviation, FLOOR * abs(usual))
        self._before.append(value)
        self.begun += stands_out and not self.above
        self.above = stands_out
        return usual if stands_out else None
