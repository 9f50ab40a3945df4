"""The slots of position encodings."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Annotated, ClassVar, cast

from torch import Tensor

from blocks.base.bias import DistanceBias
from blocks.base.component import Component
from blocks.base.context import Context
from registry import AsRecipe, Slot


class InputPositions(Component, ABC):
    """Adds position information to the embeddings.

    Attributes:
        absolute: False if shifting all positions by the same amount changes nothing.
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
    depends_on_length: ClassVar[bool] = False
    """Whether angles depend on the sequence length."""

    @abstractmethod
    def scaled_frequencies(self, frequencies: Tensor, context: Context) -> Tensor:
        """Frequencies, radians per token, (width/2,) float32 -> scaled, (width/2,) or (B or 1, T or 1, width/2)."""

    def invalidates_cache(self, before: int, after: int) -> bool:
        """Whether cached keys become invalid when a sequence grows from ``before`` to ``after`` tokens.

        They do if the angles of earlier tokens change; the whole sequence then has to be recomputed.
        """
        return False

    def magnitude(self) -> float:
        """Factor on rotated queries and keys."""
        return 1.0

    @property
    def key(self) -> Hashable:
        """Equal for scalings with the same settings, which can share their tables."""
        settings = cast("dict[str, object]", vars(self)).items()
        return type(self), tuple(sorted((name, repr(value)) for name, value in settings if not name.startswith("_")))


ScalingFactory = Annotated[Callable[[int, float], RotaryScaling], AsRecipe()]


class AttentionPositions(Component, ABC):
    """Position information inside a mixer: rotates queries and keys, or adds a bias to the scores.

    At a mixer's site, ``site.dim`` is the width of a head and ``site.heads`` the number of heads; at a stack's site,
    ``site.heads`` is None. ``capabilities.needs`` declares which of the two the mixer or stack has to apply.

    Attributes:
        absolute: False if shifting all positions by the same amount changes nothing.
    """

    slot = Slot(
        "attention_positions", "Gives a mixer position information: rotates queries and keys, or adds to the scores."
    )
    absolute: ClassVar[bool] = False
    heads: int | None = None
    """Number of heads of its bias; None: no bias."""

    def rotate(self, x: Tensor, context: Context) -> Tensor:
        """Queries or keys (B, H, T, K) -> the same shape, rotated by ``context.positions``."""
        return x

    @property
    def rotation(self) -> Hashable:
        """Equal for positions that rotate keys alike, so that layers can share these; None: keys are not rotated."""
        return id(self) if "rotation" in self.capabilities.needs else None

    def bias(self, context: Context) -> DistanceBias | None:
        """The bias of the scores for each of ``context.every_distance()``; None: no bias."""
        return None

    def prepare(self, context: Context) -> None:
        """Compute what all layers share, before the first layer runs."""
