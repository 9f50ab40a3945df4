"""The slots before and after the stacks, each an abstract class with its contract."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from torch import Tensor, nn

from blocks.base.component import Component
from blocks.base.context import Context
from blocks.base.input_checks import check_inputs
from blocks.base.site import Site
from registry import AsRecipe, Capabilities, Slot


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
        per_token: whether it gives some values for each token, and not a logit of each id.
        values: if it is one of these, the number of values in a row.
    """

    slot = Slot("head", "Maps vectors to logits.", parent_arguments=("site", "vocab_size", "width"))
    pooled: ClassVar[bool] = False
    per_token: ClassVar[bool] = False
    values: int

    def pool(self, x: Tensor, context: Context) -> Tensor:
        """The vectors that :meth:`forward` maps: (B, T, D), or (B, D) if it is ``pooled``."""
        return x

    @abstractmethod
    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """(..., D) and the embedding's table (V, width) -> (..., V), or (..., values) if it gives such"""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, table: Tensor) -> Tensor: ...


HeadFactory = Annotated[Callable[[Site, int, int], Head], AsRecipe()]


class ExtraPrediction(Component, ABC):
    """Vectors from which the head predicts a token beyond the next one, in training only.

    Several form a sequence, each of which predicts one place further ahead.
    """

    slot = Slot("extra_prediction", "Predicts a token beyond the next one, in training only.", training_only=True)

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


class Generator(Component, ABC):
    """A small model that predicts masked tokens, to train a model that detects replaced tokens.

    ``width`` is the width of the embedding's token table.
    """

    slot = Slot(
        "generator",
        "Proposes tokens in place of masked ones, in training only.",
        parent_arguments=("site", "vocab_size", "width"),
        default_block="encoder",
        training_only=True,
    )
    head: Head

    @abstractmethod
    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) embedded tokens -> (B, T, d) vectors for its head"""

    def logits(self, hidden: Tensor, table: Tensor) -> Tensor:
        """(..., d) vectors and the embedding's table (V, width) -> (..., V)"""
        return self.head(hidden, table)

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, context: Context) -> Tensor: ...


GeneratorFactory = Annotated[Callable[[Site, int, int], Generator], AsRecipe()]
