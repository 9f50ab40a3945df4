"""AdamW: its settings, its two parameter groups, and the schedule of its learning rate."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from blockformer.errors import UserError
from blocks.base import Norm

DEFAULT_MIN_RATIO = 0.1
LARGEST, SMALLEST = torch.finfo(torch.float32).max, torch.finfo(torch.float32).tiny


@dataclass
class OptimizerSettings:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) and its learning-rate schedule: the options `--optimizer.*`.

    Args:
        lr: peak learning rate, reached at the end of the warm-up.
        weight_decay: decoupled weight decay of matrices, embeddings included; at most 1, or 1 / lr. Vectors, biases and
            norm parameters never decay, not even where those of many experts are stored in one tensor.
        beta1: decay rate of the running mean of the gradient.
        beta2: decay rate of the running mean of the squared gradient.
        eps: added to the square root of the second moment.
        schedule: after the warm-up, `cosine` falls to `lr * min_ratio` at the end of the run, `inverse_sqrt` falls with
            1/sqrt(step) (Vaswani et al. 2017), `constant` stays.
        warmup_steps: optimizer steps over which the learning rate rises linearly from 0.
        min_ratio: only for `cosine`: final learning rate as a share of `lr`; 0.1 when not given.
        decay_steps: only for `cosine`: optimizer steps after which it reaches its end; the whole run when not given.

    Raises:
        UserError: a value is out of range, or the schedule does not read it; all such values are named.
    """

    lr: float = 1e-3
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    schedule: Literal["cosine", "inverse_sqrt", "constant"] = "cosine"
    warmup_steps: int = 100
    min_ratio: float | None = None
    decay_steps: int | None = None

    def __post_init__(self) -> None:
        removed = self.lr * self.weight_decay  # the share of each weight that a step at the peak removes
        allowed = {
            "lr": 0 < self.lr <= LARGEST,
            "weight_decay": self.weight_decay >= 0 and (self.weight_decay <= 1 or removed <= 1),
            "beta1": 0 <= self.beta1 < 1,
            "beta2": 0 <= self.beta2 < 1,
            "eps": SMALLEST <= self.eps <= 1,
            "warmup_steps": 0 <= self.warmup_steps < 2**63,
            "min_ratio": self.min_ratio is None or 0 <= self.min_ratio <= 1,
            "decay_steps": self.decay_steps is None or self.warmup_steps < self.decay_steps < 2**63,
        }
        wrong = [f"{name} cannot be {getattr(self, name)}" for name, fits in allowed.items() if not fits]
        if not allowed["weight_decay"] and removed > 1:
            wrong.append("as lr * weight_decay, the share of a weight that a step removes, must not be above 1")
        if self.schedule != "cosine":
            given = {"min_ratio": self.min_ratio, "decay_steps": self.decay_steps}
            wrong += [
                f"{name} {value} has no effect with schedule {self.schedule}, only with cosine: leave it out (or null)"
                for name, value in given.items()
                if value is not None
            ]
        elif self.min_ratio is None:
            self.min_ratio = DEFAULT_MIN_RATIO
        if wrong:
            raise UserError(f"optimizer: {', '.join(wrong)}")


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: matrices decay; vectors, scalars, biases and norms do not; tied parameters appear once.

    Embeddings count as matrices, as in GPT-3. The stacked biases of experts have two dimensions and still are biases.
    """
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            path, _, leaf = name.rpartition(".")
            vector = parameter.ndim < 2 or leaf == "bias" or isinstance(model.get_submodule(path), Norm)
            groups[not vector].append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0, "decays": decays}
        for decays, parameters in groups.items()
        if parameters
    ]


def make_optimizer(model: nn.Module, settings: OptimizerSettings, *, fused: bool) -> Optimizer:
    """AdamW over the two groups of :func:`decay_groups`."""
    groups = decay_groups(model, settings.weight_decay)
    betas = (settings.beta1, settings.beta2)
    return AdamW(groups, lr=settings.lr, betas=betas, eps=settings.eps, fused=fused)


def apply_settings(optimizer: Optimizer, settings: OptimizerSettings) -> None:
    """Overwrite the settings that were restored with an optimizer's state; its moments stay.

    Otherwise a continued run would ignore the settings that the user gives now.
    """
    for group in optimizer.param_groups:
        group["betas"], group["eps"] = (settings.beta1, settings.beta2), settings.eps
        group["weight_decay"] = settings.weight_decay if group["decays"] else 0.0


def cosine(step: int, warmup: int, total: int, floor: float) -> float:
    """Half a cosine from 1 at the end of the warm-up to ``floor`` at ``total``; ``floor`` from there on."""
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def inverse_sqrt(step: int, warmup: int, total: int, floor: float) -> float:
    """Proportional to 1/sqrt(step), 1 at the end of the warm-up (Vaswani et al. 2017, section 5.3)."""
    return math.sqrt(max(1, warmup) / max(1, step))


def constant(step: int, warmup: int, total: int, floor: float) -> float:
    """Always 1."""
    return 1.0


SCHEDULES: dict[str, Callable[[int, int, int, float], float]] = {
    "cosine": cosine,
    "inverse_sqrt": inverse_sqrt,
    "constant": constant,
}


def learning_rate(settings: OptimizerSettings, step: int, total: int) -> float:
    """The learning rate of one optimizer step: a pure function of the step, so a continued run needs no stored state.

    Args:
        settings: peak, warm-up and schedule.
        step: number of the optimizer step, from 1, so that no step has a rate of 0.
        total: optimizer steps of the whole run; only read by `cosine` without `decay_steps`.
    """
    if step < settings.warmup_steps:
        return settings.lr * step / settings.warmup_steps
    end = settings.decay_steps or total
    return settings.lr * SCHEDULES[settings.schedule](step, settings.warmup_steps, end, settings.min_ratio or 0.0)
