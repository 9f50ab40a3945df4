"""One abstract class per slot, with its contract."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, TypeVar

import torch
from torch import Generator, Tensor, nn

from blocks.base.component import Component
from blocks.base.context import Context
from blocks.base.input_checks import check_inputs
from blocks.base.site import Site
from blocks.base.width import WidthMultipliers
from registry import AsRecipe, Block, Capabilities, Slot

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
    """Mixes information across tokens.

    It is causal where ``site.causal`` is True, and attends to ``context.memory`` where ``site.memory_dim`` is set.

    Attributes:
        window: outputs depend only on tokens less than this many tokens away; None: no limit.
    """

    slot = Slot("mixer", "Mixes information across tokens.")
    window: int | None = None

    @abstractmethod
    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) -> (B, T, D)"""

    def prepare(self, context: Context) -> None:
        """Compute what all layers share, before the first layer runs.

        The default only checks the context; mixers that support every input may override it.

        Raises:
            ValueError: the context has an input that the mixer does not support.
        """
        check_inputs(self, context)

    @property
    def scored_heads(self) -> int:
        """Number of heads whose scores ``context.bias`` is added to; 0: none."""
        return 0

    @property
    def cached_per_token(self) -> int:
        """Cached elements per token of the sequence, or of the memory for a cross mixer."""
        return 0

    @property
    def cached_per_sequence(self) -> int:
        """Cached elements per sequence, independent of its length."""
        return 0

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, context: Context) -> Tensor: ...


class Residual(Component, ABC):
    """Wires one sublayer into the residual stream."""

    slot = Slot("residual", "Wires one sublayer into the residual stream.")

    @property
    def identity_at_zero(self) -> bool:
        """Whether it is the identity if the sublayer outputs 0."""
        return False

    @abstractmethod
    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """(B, T, D) -> (B, T, D)"""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor: ...


class Layer(Component, ABC):
    """A mixer and a feed-forward, wired into the residual stream."""

    slot = Slot(
        "layer", "Wires a mixer and a feed-forward into one step of the residual stream.", default_block="sequential"
    )

    @property
    def identity_at_zero(self) -> bool:
        """Whether it is the identity if its sublayers' ``outputs`` are 0."""
        return False

    @abstractmethod
    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) -> (B, T, D)"""

    @abstractmethod
    def prepare(self, context: Context) -> None:
        """Call ``prepare`` of the sublayers, before the first layer runs."""

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
        """Number of layers applied to a token."""

    @property
    def repeats(self) -> int:
        """Number of runs of each layer."""
        return 1

    def weight_sources(self, old: Self) -> Mapping[str, str | None]:
        """Map children to the children of ``old`` that they start from in a warm start; None: fresh.

        Children that are not named start from those of the same name.
        """
        return {}

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, context: Context) -> Tensor: ...


class Embedding(Component, ABC):
    """Maps token ids to vectors. A tied head multiplies with ``table`` (V, width)."""

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
    """Transforms the vectors before the head maps them to logits."""

    slot = Slot(
        "transform", "Transforms the vectors before the head maps them to logits.", parent_arguments=("site", "width")
    )

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, width)"""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...


TransformFactory = Annotated[Callable[[Site, int], Transform], AsRecipe()]


class Pooling(Component, ABC):
    """Makes one vector of the vectors of a text's tokens."""

    slot = Slot("pooling", "Makes one vector of the vectors of a text's tokens.")
    capabilities = Capabilities(documents=False, cache=False)

    @abstractmethod
    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) and (B, T) bool, False for padding, which must not matter -> (B, D)

        A row of padding alone gives finite values.
        """

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) -> (B, D)

        Raises:
            ValueError: the context has documents or a cache.
        """
        check_inputs(self, context)
        mask = context.attention_mask
        return self.pool(x, torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask)

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, context: Context) -> Tensor: ...


class Head(Component, ABC):
    """Maps vectors to logits. ``width`` is the width of the embedding's token table.

    Attributes:
        pooled: whether it gives one row for each text, and not one for each token.
        values: if it is pooled, the number of values in a row.
    """

    slot = Slot("head", "Maps vectors to logits.", parent_arguments=("site", "vocab_size", "width"))
    pooled: ClassVar[bool] = False
    values: int

    def pool(self, x: Tensor, context: Context) -> Tensor:
        """The vectors that :meth:`forward` maps: (B, T, D), or (B, D) if it is ``pooled``."""
        return x

    @abstractmethod
    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """(..., D) and the embedding's table (V, width) -> (..., V), or (..., outputs) if it is ``pooled``"""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, table: Tensor) -> Tensor: ...


HeadFactory = Annotated[Callable[[Site, int, int], Head], AsRecipe()]


class ExtraPrediction(Component, ABC):
    """Vectors from which the head predicts a token beyond the next one, in training only.

    Several form a sequence, each of which predicts one place further ahead.
    """

    slot = Slot("extra_prediction", "Predicts a token beyond the next one, in training only.")

    @abstractmethod
    def forward(self, x: Tensor, previous: Tensor, ahead: Tensor, context: Context) -> Tensor:
        """(B, T, D) vectors for the head.

        Args:
            x: (B, T, D) vectors from which the next token is predicted.
            previous: (B, T, D) those from which the token before this one is predicted: `x`, or the result of the extra
                prediction before this one.
            ahead: (B, T, D) embedding of the token before the predicted one; at the end of a row, of any token.
            context: of the row.
        """

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, previous: Tensor, ahead: Tensor, context: Context) -> Tensor: ...


class Init(Block, ABC):
    """Draws initial values, one parameter at a time.

    Attributes:
        base_width: the model width at which values and learning rates are those that are given; at other widths values
            are scaled by ``width_factor``, optimizers scale their rates, and blocks the constants of their forward
            pass by ``site.width_multiplier``. None: nothing depends on the width.
    """

    slot = Slot("init", "Draws initial values, one parameter at a time.", parent_arguments=())
    base_width: int | None = None

    @abstractmethod
    def draw(self, weight: Tensor, role: Role, depth: int, generator: Generator) -> None:
        """Fill ``weight`` in place.

        Args:
            weight: float32 on CPU; a matrix (..., out, in) or an embedding (rows, width).
            role: ``output`` is a matrix whose result is added to the residual stream.
            depth: number of layers of the stack, 1 outside a stack.
            generator: seeded by (seed, parameter name).
        """

    @abstractmethod
    def deviation(self, shape: Sequence[int], role: Role, depth: int) -> float:
        """Standard deviation of ``draw`` for a parameter of ``shape``."""

    def width_factor(self, shape: Sequence[int], role: Role, depth: int, width: WidthMultipliers) -> float:
        """Factor on the values of ``draw`` in a model of another width than ``base_width``."""
        return 1.0
