"""The slots of what changes each token on its own."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from blocks.base.axes import Axis, Experts, Hidden
from blocks.base.component import Component
from blocks.base.context import Context
from blocks.base.site import Site
from registry import Slot, UnfitError


class FeedForward(Component, ABC):
    """Changes each token on its own. One that can be an expert is an :class:`Expert`."""

    slot = Slot("feedforward", "Transforms each token on its own.")

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        if site.experts is not None and not isinstance(self, Expert):
            raise UnfitError("does not work as one of several experts", lambda block: issubclass(block, Expert))

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)"""

    def prepare(self, context: Context) -> None:
        """Learn of the padding, which is not to be counted, before the first layer runs."""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...


class Expert(FeedForward, ABC):
    """A feed-forward that at a site of experts stands for all of them.

    It needs nothing but :class:`~blocks.base.Linear` for its projections, each of which takes ``offsets``; all between
    them is pointwise, and may have no parameters.
    """

    @abstractmethod
    def forward(self, x: Tensor, offsets: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D), or of experts (N, D) -> (N, D).

        Args:
            x: of experts, rows sorted by expert.
            offsets: (experts,) int32, where the rows of each expert end; None: there are no experts.
        """

    def between(
        self, size: int, into: tuple[str, ...], out_of: tuple[str, ...]
    ) -> Mapping[str, tuple[Axis | None, ...]]:
        """The axes of projections to ``size`` hidden units and back, for :meth:`axes`."""
        experts = self.site.experts if self.site is not None else None
        leading = () if experts is None else (Experts(experts),)
        reads, writes = Hidden(size), Hidden(size, zero_new=True)
        axes: dict[str, tuple[Axis | None, ...]] = {f"{name}.bias": (*leading, None) for name in out_of}
        for name in into:
            axes |= {f"{name}.weight": (*leading, reads, None), f"{name}.bias": (*leading, reads)}
        return axes | {f"{name}.weight": (*leading, None, writes) for name in out_of}

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, offsets: Tensor | None = None) -> Tensor: ...


class Router(Component, ABC):
    """Chooses ``top_k`` of the ``site.experts`` experts for each token."""

    slot = Slot("router", "Chooses the experts of each token.")
    top_k: int

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D) -> the chosen experts' weights (N, top_k), in the dtype of ``x`` or wider, and indices (N, top_k)."""

    def prepare(self, context: Context) -> None:
        """Learn of the padding, which is not to be counted, before the first layer runs."""

    def auxiliary_loss(self, reduce: Callable[[Tensor], Tensor]) -> Tensor | None:
        """What training adds to the loss for the last forward, a scalar; asked for once after each.

        Args:
            reduce: adds a tensor up over all processes that train together.
        """
        return None

    def update(self) -> None:
        """Change what gradients do not reach, after an optimizer step."""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]: ...
