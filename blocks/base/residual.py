"""The slots of the residual stream, which may be several streams side by side: residual and readout."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge
from torch import Tensor

from blocks.base.component import Component
from blocks.base.site import Site
from registry import AsRecipe, Slot

Streams = Annotated[int, Ge(2)]
"""A number of residual streams."""


class Residual(Component, ABC):
    """Wires one sublayer into the residual stream, or into several of them.

    Attributes:
        streams: number N of residual streams that it reads and writes. Several streams have an axis of their own before
            that of the width, and each sublayer still reads and gives one vector for each token.
    """

    slot = Slot("residual", "Wires one sublayer into the residual stream.")
    streams: int = 1

    @property
    def identity_at_zero(self) -> bool:
        """Whether it is the identity if the sublayer outputs 0."""
        return False

    @abstractmethod
    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """(B, T, D) -> (B, T, D), or with several streams (B, T, N, D) -> (B, T, N, D)"""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor: ...


class AdditiveResidual(Residual, ABC):
    """A residual that adds an update to the stream and leaves the stream itself as it is."""

    @abstractmethod
    def update(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """What is added to the stream, given what is read from it: (B, T, D) -> (B, T, D)"""

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        update = self.update(x, sublayer)
        self.record(update=update)
        return x + update


class Readout(Component, ABC):
    """Reduces the residual streams of a stack to one vector for each token, after its last layer."""

    slot = Slot(
        "readout",
        "Reduces several residual streams to one, after the last layer.",
        parent_arguments=("site", "streams"),
    )

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, T, N, D) -> (B, T, D)"""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...


ReadoutFactory = Annotated[Callable[[Site, int], Readout], AsRecipe()]


def common_streams(numbers: Iterable[int | None], where: str) -> int | None:
    """The number of residual streams that the parts of something have in common; None: any number.

    Args:
        numbers: of each part; None: any number.
        where: what they are parts of, for the message.

    Raises:
        ValueError: the parts have different numbers.
    """
    found = sorted({number for number in numbers if number is not None})
    if len(found) > 1:
        raise ValueError(
            f"{where} have {' and '.join(map(str, found))} residual streams; give all residuals the same number of "
            "streams"
        )
    return found[0] if found else None


def check_one_stream(streams: int | None, block: str) -> None:
    """Check that a block whose wiring has one residual stream is not given several.

    Raises:
        ValueError: ``streams`` is more than 1.
    """
    if streams is not None and streams > 1:
        raise ValueError(f"{block} has one residual stream, but its residuals have {streams}; choose another residual")
