"""The slots of what tells where tokens stand."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Annotated, ClassVar, cast

from torch import Tensor

from blocks.base.component import Component
from blocks.base.context import Context
from registry import AsRecipe, Slot


class InputPositions(Component, ABC):
    """Says where a token stands by a vector that is added to its embedding.

    ``absolute`` says whether a text gives something else when all its positions are shifted alike.
    """

    slot = Slot("input_positions", "Adds position information to the embeddings.")
    absolute: ClassVar[bool] = True

    @abstractmethod
    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) embeddings -> (B, T, D) embeddings with positions."""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, context: Context) -> Tensor: ...


class RotaryScaling(Component, ABC):
    """Extends rotary positions to longer sequences than the model was trained on."""

    slot = Slot(
        "rotary_scaling",
        "Extends rotary positions to longer sequences than the model was trained on.",
        parent_arguments=("width", "theta"),
    )
    grows: ClassVar[bool] = False
    """Whether angles depend on how long the text becomes."""

    @abstractmethod
    def stretched(self, frequencies: Tensor, context: Context) -> Tensor:
        """Angles per token (width/2,) float32 -> the same, or of texts of several lengths (B or 1, T or 1, width/2)."""

    def changes(self, before: int, after: int) -> bool:
        """Whether a text that grows from ``before`` to ``after`` tokens is turned otherwise from its first token on.

        Keys in a cache are then wrong, so that the whole text has to be read again.
        """
        return False

    def magnitude(self) -> float:
        """Factor on the turned queries and keys."""
        return 1.0

    @property
    def key(self) -> Hashable:
        """Equal for scalings that do the same, which can share their tables."""
        settings = cast("dict[str, object]", vars(self)).items()
        return type(self), tuple(sorted((name, repr(value)) for name, value in settings if not name.startswith("_")))


ScalingFactory = Annotated[Callable[[int, float], RotaryScaling], AsRecipe()]


class AttentionPositions(Component, ABC):
    """Says where tokens stand inside a mixer: turns queries and keys, or adds to the scores.

    ``site.dim`` is the width of a head and ``site.heads`` their number; a stack that shares one among its mixers knows
    neither. ``capabilities.needs`` says which of the two it does, so that it stands only where that is applied. Unless
    it is ``absolute``, only distances count: shifting all positions by the same amount changes nothing.
    """

    slot = Slot(
        "attention_positions", "Gives a mixer position information: rotates queries and keys, or adds to the scores."
    )
    absolute: ClassVar[bool] = False
    heads: int | None = None
    """Number of heads to whose scores it adds; None: it adds nothing."""

    def rotate(self, x: Tensor, context: Context) -> Tensor:
        """Queries or keys (B, H, T, K) -> the same, placed at ``context.positions``."""
        return x

    def bias(self, context: Context) -> Tensor | None:
        """What is added to the scores, (B or 1, H, T, S) float32, or nothing."""
        return None

    def prepare(self, context: Context) -> None:
        """Make what all layers share, before the first runs."""
