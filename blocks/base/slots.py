"""One abstract class per slot: its contract, and nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeVar

from torch import Generator, Tensor, nn

from blocks.base.component import Component
from blocks.base.context import Context
from blocks.base.input_checks import check_inputs
from blocks.base.site import Site
from registry import AsRecipe, Block, Slot

T = TypeVar("T")
Factory = Annotated[Callable[[Site], T], AsRecipe()]
SitelessFactory = Annotated[Callable[[], T], AsRecipe()]
Role = Literal["matrix", "output", "embedding"]


class Activation(Component, ABC):
    """A pointwise non-linearity."""

    slot = Slot("activation", "Applies a pointwise non-linearity.", parent_arguments=())

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(...) -> (...)"""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...


class Norm(Component, ABC):
    """Normalises the last axis."""

    slot = Slot("norm", "Normalises the last axis.")

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...


class Mixer(Component, ABC):
    """Moves information between tokens.

    It obeys ``site.causal``, and reads ``context.memory`` where there is a ``site.memory_dim``. ``window``: a token
    sees only those closer than this many tokens, itself included; None: all.
    """

    slot = Slot("mixer", "Moves information between tokens.")
    window: int | None = None

    @abstractmethod
    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) -> (B, T, D)"""

    def prepare(self, context: Context) -> None:
        """Make what all layers share, before the first runs.

        Raises:
            ValueError: it is given what it cannot be given; one that overrides this can be given everything.
        """
        check_inputs(self, context)

    @property
    def scored_heads(self) -> int:
        """Number of heads to whose scores it adds ``context.bias``; 0: it has no such scores."""
        return 0

    @property
    def cached_per_token(self) -> int:
        """Numbers that the cache keeps for each token seen: of the memory, for a cross mixer."""
        return 0

    @property
    def cached_per_text(self) -> int:
        """Numbers that the cache keeps for each row besides, however long its text."""
        return 0

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, context: Context) -> Tensor: ...


class Residual(Component, ABC):
    """Wires one sublayer into the stream."""

    slot = Slot("residual", "Wires one sublayer into the stream.")

    @property
    def identity_at_zero(self) -> bool:
        """Whether it leaves the stream as it is where the sublayer gives 0."""
        return False

    @abstractmethod
    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """(B, T, D) -> (B, T, D)"""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor: ...


class Layer(Component, ABC):
    """One step of the residual stream."""

    slot = Slot(
        "layer", "Wires a mixer and a feed-forward into one step of the residual stream.", default_block="sequential"
    )

    @property
    def identity_at_zero(self) -> bool:
        """Whether it leaves the stream as it is where its sublayers' ``outputs`` are 0."""
        return False

    @abstractmethod
    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) -> (B, T, D)"""

    @abstractmethod
    def prepare(self, context: Context) -> None:
        """Let the mixers make what all layers share, before the first runs."""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, context: Context) -> Tensor: ...


class Stack(Component, ABC):
    """Layers in order, and the norm after them."""

    slot = Slot("stack", "Runs layers in order, and the norm after them.", default_block="layers")

    @abstractmethod
    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) -> (B, T, D)"""

    @property
    @abstractmethod
    def depth(self) -> int:
        """Number of layers that a token passes."""

    @property
    def repeats(self) -> int:
        """How many times each of its layers runs."""
        return 1

    def weight_sources(self, old: Self) -> Mapping[str, str | None]:
        """Whose weights children take over in a warm start: name here -> name in ``old``, None: nobody's.

        Children that are not named take over those of the same name.
        """
        return {}

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, context: Context) -> Tensor: ...


class Embedding(Component, ABC):
    """Token ids to vectors. ``table`` (V, width) is what a tied head multiplies with."""

    slot = Slot(
        "embedding",
        "Maps token ids to vectors.",
        parent_arguments=("site", "vocab_size", "tokens"),
        default_block="token",
    )
    width: int
    tokens: nn.Embedding

    @property
    def table(self) -> Tensor:
        """The token vectors, (V, width)."""
        return self.tokens.weight

    @abstractmethod
    def forward(self, tokens: Tensor, context: Context, segments: Tensor | None = None) -> Tensor:
        """(B, T) ids -> (B, T, D)"""

    if TYPE_CHECKING:

        def __call__(self, tokens: Tensor, context: Context, segments: Tensor | None = None) -> Tensor: ...


EmbeddingFactory = Annotated[Callable[[Site, int, nn.Embedding | None], Embedding], AsRecipe()]


class Transform(Component, ABC):
    """A last change of the vectors before they become logits."""

    slot = Slot(
        "transform", "Transforms the vectors before the head maps them to logits.", parent_arguments=("site", "width")
    )

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, width)"""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...


TransformFactory = Annotated[Callable[[Site, int], Transform], AsRecipe()]


class Head(Component, ABC):
    """Vectors to logits. It is given the vocabulary's size and the width of the embedding's token table."""

    slot = Slot("head", "Maps vectors to logits.", parent_arguments=("site", "vocab_size", "width"))

    @abstractmethod
    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """(B, T, D) and the embedding's table (V, width) -> (B, T, V)"""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, table: Tensor) -> Tensor: ...


HeadFactory = Annotated[Callable[[Site, int, int], Head], AsRecipe()]


class Init(Block, ABC):
    """Draws initial values, one parameter at a time."""

    slot = Slot("init", "Draws initial values, one parameter at a time.", parent_arguments=())

    @abstractmethod
    def draw(self, weight: Tensor, role: Role, depth: int, generator: Generator) -> None:
        """Fill ``weight`` in place.

        Args:
            weight: float32 on CPU; of a matrix (..., out, in), of an embedding (rows, width).
            role: an ``output`` is a matrix whose result goes straight into the residual stream.
            depth: number of layers in the stack around it, 1 outside a stack.
            generator: seeded by (seed, parameter name).
        """

    @abstractmethod
    def deviation(self, shape: Sequence[int], role: Role, depth: int) -> float:
        """Standard deviation of what ``draw`` fills a parameter of ``shape`` with, by which it can be checked."""
