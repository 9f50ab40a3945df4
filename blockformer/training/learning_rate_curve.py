"""The curve of a learning-rate range test, and the rate that it suggests.

Lightning's LearningRateFinder is not used: it sets all parameter groups to one rate, which our module sets again by its
schedule, takes the loss of one process and of the last batch of a step alone, and writes a checkpoint.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

REACH = 20  # a loss is smoothed over a window that reaches this part of the steps to each side
DIVERGED = 4.0  # times the lowest loss
CLEAR = 3.0  # times the noise
ROWS = 12  # of the table


@dataclass(frozen=True)
class LearningRateCurve:
    """The training loss of steps whose learning rate grows.

    Args:
        rates: the learning rate of each step.
        losses: the loss of each step, in nats per target; all but the last are finite.
        planned: steps of the whole test.
    """

    rates: Sequence[float]
    losses: Sequence[float]
    planned: int

    @property
    def reach(self) -> int:
        """Steps to each side over which a loss is smoothed."""
        return max(2, self.planned // REACH)

    @cached_property
    def _finite(self) -> NDArray[np.float64]:
        """The losses up to the first that is infinite or NaN."""
        losses = np.asarray(self.losses, float)
        broken = np.flatnonzero(~np.isfinite(losses))
        return losses[: broken[0]] if broken.size else losses

    @property
    def diverged(self) -> bool:
        """Whether the loss is infinite or NaN, or its mean over the last steps is far above the lowest and the first.

        Far is :data:`DIVERGED` times the lowest such mean.
        """
        if len(self._finite) < len(self.losses):
            return True
        if len(self.losses) <= self.reach:
            return False
        means = sliding_window_view(self._finite, self.reach + 1).mean(-1)
        return bool(means[-1] > max(means[0], DIVERGED * means.min()))

    @cached_property
    def _lines(self) -> NDArray[np.float64]:
        """(N, 2): value and slope, at each step, of the line that is fitted to the losses within reach of it."""
        lines = np.empty((len(self._finite), 2))
        for place in range(len(lines)):
            first = max(0, place - self.reach)
            near = self._finite[first : place + self.reach + 1]
            steps = np.arange(first, first + len(near)) - place
            centred = steps - steps.mean()
            slope = centred @ near / max(centred @ centred, 1.0)
            lines[place] = near.mean() - slope * steps.mean(), slope
        return lines

    @property
    def smoothed(self) -> list[float]:
        """The loss of each step up to the first that is not finite, from a straight line through those around it."""
        return self._lines[:, 0].tolist()

    @property
    def lowest(self) -> int | None:
        """The step, from 0, at which the smoothed loss is lowest; None: it does not fall by more than noise.

        It has to be below the mean of the first losses by :data:`CLEAR` times the median change from step to step.
        """
        if len(self._finite) <= 2 * self.reach:
            return None
        values = self._lines[:, 0]
        place = int(values.argmin())
        noise = float(np.median(np.abs(np.diff(self._finite))))
        return place if self._finite[: self.reach + 1].mean() - values[place] > CLEAR * noise else None

    @property
    def steepest(self) -> int | None:
        """The step, from 0, at which the smoothed loss falls fastest, before it is lowest; None: it does not fall."""
        return None if self.lowest is None else int(self._lines[: self.lowest + 1, 1].argmin())

    @property
    def suggestion(self) -> float | None:
        """The rate at which the smoothed loss falls fastest, to two digits; None: it does not fall."""
        return None if self.steepest is None else float(f"{self.rates[self.steepest]:.2g}")

    def remarks(self) -> list[str]:
        """What makes the suggestion doubtful."""
        if self.steepest is None or self.lowest is None:
            return []
        found: list[str] = []
        if self.steepest < self.reach:
            found.append(f"the loss falls fastest near the lowest rate, {self.rates[0]:.2g}: lower --from")
        if not self.diverged and self.lowest >= len(self.losses) - self.reach:
            found.append(f"the loss is lowest near the highest rate, {self.rates[-1]:.2g}: raise --to")
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Step (from 1), learning rate, loss and smoothed loss of each step."""
        smoothed = [*self.smoothed, *[None] * (len(self.losses) - len(self.smoothed))]
        return [
            {"step": place + 1, "learning_rate": rate, "loss": loss, "smoothed": mean}
            for place, (rate, loss, mean) in enumerate(zip(self.rates, self.losses, smoothed, strict=True))
        ]

    def table(self) -> list[str]:
        """Some of the steps, evenly spread, with the steepest and the lowest."""
        chosen = {int(place) for place in np.linspace(0, len(self.losses) - 1, ROWS).round()}
        marks = {self.lowest: "  lowest", self.steepest: "  falls fastest"}
        lines = [f"{'step':>6}{'lr':>12}{'loss':>12}{'smoothed':>12}"]
        for place, row in enumerate(self.rows()):
            if place in chosen or place in marks:
                mean = "" if row["smoothed"] is None else f"{row['smoothed']:.4f}"
                line = f"{row['step']:>6}{row['learning_rate']:>12.2e}{row['loss']:>12.4f}{mean:>12}"
                lines.append(line + marks.get(place, ""))
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The curve and what follows from it, as plain data."""
        rates = {name: None if place is None else self.rates[place] for name, place in self._places().items()}
        return {"suggestion": self.suggestion, **rates, "diverged": self.diverged, "curve": self.rows()}

    def as_csv(self) -> str:
        """The curve as CSV, a row for each step."""
        text = io.StringIO()
        for number, row in enumerate(self.rows()):
            if not number:
                text.write(",".join(row) + "\n")
            text.write(",".join("" if value is None else repr(value) for value in row.values()) + "\n")
        return text.getvalue()

    def _places(self) -> dict[str, int | None]:
        return {"steepest": self.steepest, "lowest": self.lowest}
