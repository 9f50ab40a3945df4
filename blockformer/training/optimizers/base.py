"""The contracts of an optimizer and of a schedule of its learning rate."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from blocks.base import WidthMultipliers
from registry import Block, Slot

COMMON = ("type", "lr", "weight_decay", "schedule", "warmup_steps", "groups", "train", "freeze", "ema")
"""Settings of :class:`~blockformer.training.optimizers.settings.OptimizerSettings` that are not of one component."""

Group = dict[str, Any]
"""A parameter group of torch: `params`, `lr`, `weight_decay` and what else its optimizer reads."""


def _same(parameter: Tensor, tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Sharding:
    """How an optimizer that needs whole tensors gathers and splits them.

    Attributes:
        whole: gives, for a parameter and this process's part of a tensor of its shape, the whole tensor; every process
            must call it.
        part: gives this process's part of a whole tensor.
    """

    whole: Callable[[Tensor, Tensor], Tensor] = _same
    part: Callable[[Tensor, Tensor], Tensor] = _same


class OptimizerComponent(Block, ABC):
    """Makes an optimizer. The constructor's parameters are options of `blockformer fit`, such as `--optimizer.beta1`.

    Attributes:
        default_schedule: the schedule where none is named.
        schedules: the schedules that it works with; None: all.
        elementwise: whether an entry of a parameter changes by its own gradients alone, or the optimizer gathers whole
            tensors by :class:`Sharding`; others need one process to hold the whole parameter.
        splits_matrices: whether hidden matrices are treated differently from other parameters.
    """

    slot = Slot(
        "optimizer",
        "Changes the parameters by their gradients.",
        parent_arguments=(),
        option="optimizer.type",
        reserved=frozenset(COMMON),
    )
    default_schedule: ClassVar[str] = "cosine"
    schedules: ClassVar[tuple[str, ...] | None] = None
    elementwise: ClassVar[bool] = True
    splits_matrices: ClassVar[bool] = False

    @abstractmethod
    def make(self, groups: list[Group], *, fused: bool, sharding: Sharding) -> Optimizer:
        """The optimizer.

        Args:
            groups: with `params`, `lr`, `weight_decay`, and `matrix`, which says whether they are hidden matrices;
                where the model's init has a base width, groups of these have `width`, outputs and inputs relative to
                those at the base width.
            fused: whether torch's fused kernels may be used.
            sharding: how to gather and split tensors.
        """

    @abstractmethod
    def state_shapes(self, parameter: Tensor, *, matrix: bool) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor that the optimizer keeps for a parameter, by its name in the optimizer's state.

        Args:
            parameter: the parameter.
            matrix: whether it is a hidden matrix.
        """

    def width_factor(self, width: WidthMultipliers, *, matrix: bool) -> float | None:
        """Factor on the learning rate of a parameter in a model of another width than its init's base width.

        With it a step changes what the parameter computes by as much at all widths. None: there is no rule, so that
        models whose init has a base width are refused.

        Args:
            width: sizes of the parameter, relative to those at the base width.
            matrix: whether it is a hidden matrix.
        """
        return None


class Schedule(Block, ABC):
    """The learning rate after the warm-up, as a share of its peak."""

    slot = Slot(
        "schedule",
        "Changes the learning rate from step to step, after a linear warm-up.",
        parent_arguments=(),
        option="optimizer.schedule",
        reserved=frozenset(COMMON),
    )

    @property
    def needs_length(self) -> bool:
        """Whether it reads the number of steps of the whole run."""
        return False

    @abstractmethod
    def factor(self, step: int, warmup: int, total: int) -> float:
        """The share of the peak that the learning rate of a step is: a pure function, so nothing of it is stored.

        Args:
            step: number of the optimizer step, at least `warmup`.
            warmup: the step at which the peak is reached.
            total: steps of the whole run; 0: not known.
        """
