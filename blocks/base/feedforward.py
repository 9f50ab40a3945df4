"""The slots feedforward and router."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from blocks.base.axes import Axis, Experts, Hidden
from blocks.base.component import Component
from blocks.base.context import Context
from blocks.base.site import Site
from blocks.base.slots import Factory, Norm
from registry import Slot, UnfitError


class FeedForward(Component, ABC):
    """Transforms each token independently. Feed-forwards that can be experts inherit from :class:`Expert`."""

    slot = Slot("feedforward", "Transforms each token on its own.")

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        if site.experts is not None and not isinstance(self, Expert):
            raise UnfitError("does not work as one of several experts", lambda block: issubclass(block, Expert))

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)"""

    def prepare(self, context: Context) -> None:
        """Read the padding mask, for load balancing, before the first layer runs."""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...


class Expert(FeedForward, ABC):
    """A feed-forward that computes all experts at a site with ``site.experts``.

    Its projections are :class:`~blocks.base.Linear`, called with ``offsets``; operations between them work on each row
    alone and have no parameters.
    """

    @abstractmethod
    def forward(self, x: Tensor, offsets: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D), or for experts (N, D) -> (N, D).

        Args:
            x: for experts, rows sorted by expert.
            offsets: (experts,) int32, end of each expert's rows; None: no experts.
        """

    def norm_between(self, norm: Factory[Norm] | None, size: int) -> Norm | None:
        """Build a norm of ``size`` hidden units; None: no norm.

        Raises:
            ValueError: it has parameters, of which experts would need one set each.
        """
        if norm is None or self.site is None:
            return None
        built = norm(self.site.resized(size))
        if self.site.experts is not None and next(built.parameters(), None) is not None:
            raise ValueError(
                "inner_norm has parameters, which experts cannot have; choose a norm without weights, or none"
            )
        return built

    def between(
        self, size: int, into: tuple[str, ...], out_of: tuple[str, ...], norm: Norm | None = None
    ) -> Mapping[str, tuple[Axis | None, ...]]:
        """Axes of projections to ``size`` hidden units and back, and of their ``inner_norm``, for :meth:`axes`."""
        experts = self.site.experts if self.site is not None else None
        leading = () if experts is None else (Experts(experts),)
        reads, writes = Hidden(size), Hidden(size, zero_new=True)
        axes: dict[str, tuple[Axis | None, ...]] = {f"{name}.bias": (*leading, None) for name in out_of}
        for name in into:
            axes |= {f"{name}.weight": (*leading, reads, None), f"{name}.bias": (*leading, reads)}
        for name, parameter in norm.named_parameters() if norm else ():
            axes |= {f"inner_norm.{name}": (reads,)} if parameter.shape == (size,) else {}
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
        """Read the padding mask, for load balancing, before the first layer runs."""

    def auxiliary_loss(self, reduce: Callable[[Tensor], Tensor]) -> Tensor | None:
        """The auxiliary loss of the last forward, a scalar; call it once after each training forward. None: no loss.

        Args:
            reduce: sums a tensor over all processes of the training.
        """
        return None

    def update(self) -> None:
        """Update state that is not trained by gradients, after an optimizer step."""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]: ...
