"""The built-in schedules of the learning rate."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field

from blockformer.errors import UserError
from blockformer.training.optimizers.base import Schedule
from registry import AsRecipe, Positive, register

Share = Annotated[float, Field(ge=0, le=1)]
Phase = Annotated[Callable[[], Schedule], AsRecipe()]


@register("constant")
class Constant(Schedule):
    """The peak, to the end."""

    formula = "lr(t) = lr"

    def __init__(self) -> None:
        pass

    def factor(self, step: int, warmup: int, total: int) -> float:
        return 1.0


class _Falling(Schedule, ABC):
    """Falls from the peak to a share of it at the end of the run."""

    def __init__(self, *, min_ratio: Share = 0.1, decay_steps: Positive | None = None) -> None:
        self.min_ratio, self.decay_steps = min_ratio, decay_steps

    @property
    def needs_length(self) -> bool:
        return self.decay_steps is None

    def factor(self, step: int, warmup: int, total: int) -> float:
        end = self.decay_steps or total
        progress = min(1.0, (step - warmup) / max(1, end - warmup))
        return self.min_ratio + (1 - self.min_ratio) * self.curve(progress)

    @abstractmethod
    def curve(self, progress: float) -> float:
        """From 1 to 0 while progress goes from 0 to 1."""


@register("cosine")
class Cosine(_Falling):
    """Half a cosine from the peak to a share of it at the end of the run; that share from there on.

    Args:
        min_ratio: Final learning rate as a share of the peak.
        decay_steps: Optimizer steps, with the warm-up, after which it reaches its end; null: the whole run.
    """

    paper = "Loshchilov and Hutter, 2017, SGDR: Stochastic Gradient Descent with Warm Restarts, arXiv:1608.03983"
    formula = "lr(t) = lr (end + (1 - end) (1 + cos(pi t / T)) / 2)"

    def curve(self, progress: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * progress))


@register("linear")
class Linear(_Falling):
    """A straight line from the peak to a share of it at the end of the run; that share from there on.

    Args:
        min_ratio: Final learning rate as a share of the peak.
        decay_steps: Optimizer steps, with the warm-up, after which it reaches its end; null: the whole run.
    """

    paper = "Devlin et al., 2019, BERT, arXiv:1810.04805"
    formula = "lr(t) = lr (1 - (1 - end) t / T)"

    def curve(self, progress: float) -> float:
        return 1 - progress


@register("inverse_sqrt")
class InverseSqrt(Schedule):
    """Proportional to 1/sqrt(step)."""

    paper = "Vaswani et al., 2017, Attention Is All You Need, section 5.3, arXiv:1706.03762"
    formula = "lr(t) = lr sqrt(warmup / t)"

    def __init__(self) -> None:
        pass

    def factor(self, step: int, warmup: int, total: int) -> float:
        return math.sqrt(max(1, warmup) / max(1, step))


@register("wsd")
class WarmupStableDecay(Schedule):
    """The peak for most of the run, and a fall in its last steps: warm-up, stable, decay.

    One long run at the peak (the trunk) serves several lengths: `--decay-from CHECKPOINT` continues it in a run of its
    own, with the fall at once.

    Args:
        cooldown_steps: Optimizer steps of the fall; null: a fifth of the run.
        min_ratio: Final learning rate as a share of the peak.
        shape: "linear", or "sqrt", which falls with 1 - sqrt(progress).
    """

    paper = "Hägele et al., 2024, Scaling Laws ... Beyond Fixed Training Durations, arXiv:2405.18392"
    formula = 'lr(t) = lr "for" t < T - decay, "then falling to" end * lr'

    def __init__(
        self,
        *,
        cooldown_steps: Positive | None = None,
        min_ratio: Share = 0.0,
        shape: Literal["linear", "sqrt"] = "linear",
    ) -> None:
        self.cooldown_steps, self.min_ratio, self.shape = cooldown_steps, min_ratio, shape

    @property
    def needs_length(self) -> bool:
        return True

    def factor(self, step: int, warmup: int, total: int) -> float:
        steps = self.cooldown_steps or max(1, total // 5)
        progress = min(1.0, max(0.0, (step - (total - steps)) / steps))
        curve = progress**0.5 if self.shape == "sqrt" else progress
        return self.min_ratio + (1 - self.min_ratio) * (1 - curve)


@register("sequential")
class Sequential(Schedule):
    """Several schedules one after another, each over a length of its own, as if that were the whole run.

    Args:
        phases: Schedules, such as [constant, {type: cosine, min_ratio: 0}].
        lengths: Optimizer steps of each phase but the last, which lasts to the end; the warm-up is in the first.
    """

    formula = 'lr(t) = lr_i(t - b_i) "for" b_i <= t < b_(i+1); b_(i+1) = b_i + length_i'

    def __init__(
        self, *, phases: tuple[Phase, ...] = (Constant, Cosine), lengths: tuple[Positive, ...] = (100,)
    ) -> None:
        self.phases, self.lengths = [phase() for phase in phases], lengths
        if len(lengths) != len(self.phases) - 1:
            raise UserError(
                f"optimizer.lengths has {len(lengths)} numbers for {len(self.phases)} phases: give one fewer"
            )

    @property
    def needs_length(self) -> bool:
        return self.phases[-1].needs_length

    def factor(self, step: int, warmup: int, total: int) -> float:
        begin = 0
        for phase, length in zip(self.phases, self.lengths, strict=False):
            if step < begin + length:
                return phase.factor(step - begin, warmup if begin == 0 else 0, length)
            begin += length
        return self.phases[-1].factor(step - begin, 0, max(1, total - begin))
