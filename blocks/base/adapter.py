"""The slot adapter: a trained change to a projection."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated

from torch import Tensor

from blocks.base.component import Component
from registry import AsRecipe, Cut, Slot


class Adapter(Component, ABC):
    """A trained change to a projection, which can be folded into the projection's weight.

    Its output is exactly 0 with its initial values. A :class:`~blocks.base.Linear` owns it as ``adapter``; models build
    it for the projections that their recipe's ``adapters`` names. What its parent passes to its constructor is the
    projection's ``in_features`` and ``out_features``, and its number of experts, or None.
    """

    slot = Slot(
        "adapter",
        "Adds a trained change to a projection.",
        parent_arguments=("in_features", "out_features", "experts"),
        default_block="lora",
    )

    @abstractmethod
    def forward(self, x: Tensor, offsets: Tensor | None = None) -> Tensor:
        """The change of the projection's output, linear in ``x``: (..., in) -> (..., out); for experts (N, ...).

        Args:
            x: the projection's input; for experts, rows sorted by expert.
            offsets: (experts,) int32, end of each expert's rows; None: no experts.
        """

    @abstractmethod
    def delta(self) -> Tensor:
        """The change of the weight with the same effect in evaluation mode: the weight's shape, float32 or wider."""

    @abstractmethod
    def cuts(self, cut: Cut) -> Mapping[str, int | None]:
        """How tensor parallelism splits each parameter if it splits the projection by ``columns`` or ``rows``.

        The axis along which the parameter is split; None: every process has all of it, applies it to its own part of
        the inputs or outputs, and gradients are summed.
        """

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, offsets: Tensor | None = None) -> Tensor: ...


AdapterFactory = Annotated[Callable[[int, int, int | None], Adapter], AsRecipe()]
