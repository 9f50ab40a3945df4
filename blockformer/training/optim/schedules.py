"""The learning rate as a pure function of the step, so that a run that continues needs no state for it."""

import math
from collections.abc import Callable

from blockformer.training.optim.settings import OptimizerSettings


def cosine(step: int, warmup: int, total: int, floor: float) -> float:
    """Half a cosine from 1 at the end of the warm-up to ``floor`` at ``total``, and ``floor`` after it."""
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def inverse_sqrt(step: int, warmup: int, total: int, floor: float) -> float:
    """Fall as 1/sqrt(step), from 1 at the end of the warm-up (Vaswani et al. 2017, section 5.3)."""
    return math.sqrt(max(1, warmup) / max(1, step))


def constant(step: int, warmup: int, total: int, floor: float) -> float:
    """Stay at 1."""
    return 1.0


SCHEDULES: dict[str, Callable[[int, int, int, float], float]] = {
    "cosine": cosine,
    "inverse_sqrt": inverse_sqrt,
    "constant": constant,
}


def learning_rate(settings: OptimizerSettings, step: int, total: int) -> float:
    """The learning rate of one optimizer step.

    Args:
        settings: peak, warm-up and schedule.
        step: which optimizer step, counted from 1, so that no step is made with a rate of 0.
        total: optimizer steps of the whole run; only `cosine` without `decay_steps` looks at it.
    """
    if step < settings.warmup_steps:
        return settings.lr * step / settings.warmup_steps
    end = settings.decay_steps or total
    return settings.lr * SCHEDULES[settings.schedule](step, settings.warmup_steps, end, settings.min_ratio)
