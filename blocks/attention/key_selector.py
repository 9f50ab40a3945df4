"""The slot key_selector: which of the visible keys a mixer attends to."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from blocks.attention.eager import attention_weights
from blocks.attention.scoring import Scoring
from blocks.attention.visibility import Visibility
from blocks.base import Component, Context, Site
from registry import AsRecipe, Slot

SCORES = 2**24
"""Scores that are computed at once, of all heads and rows."""


class Choice(NamedTuple):
    """The keys that each query attends to.

    Attributes:
        keys: (B, 1, T, S) bool; None: all keys that it sees.
        scores: (B, T, S), by which they were chosen, where the selector learns; None: it does not.
    """

    keys: Tensor | None = None
    scores: Tensor | None = None


class KeySelector(Component, ABC):
    """Chooses the keys that each query of a mixer attends to, the same ones for all heads.

    No gradient passes through the choice, so its parameters have none of the model's outputs: it learns by an auxiliary
    loss, or not at all.

    Attributes:
        learns: whether it has an auxiliary loss.
        reuses: whether it takes over the choice of an earlier layer.
    """

    slot = Slot(
        "key_selector",
        "Chooses the keys that each query of a mixer attends to.",
        parent_arguments=("site", "query_dim"),
    )
    learns: bool = False
    reuses: ClassVar[bool] = False

    def prepare(self, context: Context) -> None:
        """Compute what all layers share and begin to record, before the first layer runs."""

    @abstractmethod
    def forward(
        self, x: Tensor, queries: Tensor, visible: Visibility, context: Context, window: int | None = None
    ) -> Choice:
        """The choice of each token.

        Args:
            x: input of the mixer (B, T, D).
            queries: what it projects its queries from, (B, T, query_dim).
            visible: the keys that could be chosen.
            context: of the forward.
            window: of the mixer, whose cache drops older keys; None: no window.
        """

    def learn(self, choice: Choice, q: Tensor, k: Tensor, visible: Visibility, scoring: Scoring) -> None:
        """Record the loss of a choice in training, given how the mixer attends.

        Args:
            choice: what :meth:`forward` has returned.
            q: queries (B, H, T, K) of the mixer.
            k: its keys (B, G, S, K).
            visible: the keys that could be chosen.
            scoring: the options of its scores.
        """

    def auxiliary_loss(self, reduce: Callable[[Tensor], Tensor]) -> Tensor | None:
        """The auxiliary loss of the last forward, a scalar; call it once after each training forward. None: no loss.

        Args:
            reduce: sums a tensor over all processes of the training.
        """
        return None

    @property
    def cached_per_token(self) -> int:
        """Cached elements per token of the sequence, at most the mixer's ``window``."""
        return 0

    @property
    def cached_per_sequence(self) -> int:
        """Cached elements per sequence, independent of its length."""
        return 0

    if TYPE_CHECKING:

        def __call__(
            self, x: Tensor, queries: Tensor, visible: Visibility, context: Context, window: int | None = None
        ) -> Choice: ...


def choice_of(context: Context, layer: int) -> Hashable:
    """The key in ``context.shared`` of the ``keys`` that a layer has chosen.

    With activation checkpointing a layer is computed again after all others: it finds what it needs by its place.
    """
    return "chosen keys", context.scope, layer


def check_choices(layers: Iterable[nn.Module]) -> None:
    """Check that each layer that takes over a choice comes after one that makes it.

    Raises:
        ValueError: there is none before it.
    """
    made = False
    for index, layer in enumerate(layers):
        reuse = [part.reuses for part in layer.modules() if isinstance(part, KeySelector)]
        if any(reuse) and not made:
            raise ValueError(
                f"layer {index} attends to the keys that an earlier layer has chosen, but none has; give a layer "
                "before it a selector that chooses, such as indexer"
            )
        made = made or not all(reuse)


SelectorFactory = Annotated[Callable[[Site, int], KeySelector], AsRecipe()]


def parts_of_queries(visible: Visibility, rows: int) -> Iterator[tuple[int, int, Tensor | None]]:
    """Ranges of queries, first and last excluded, and their masks of all keys, so that few scores exist at once.

    Args:
        visible: what the queries see.
        rows: of the batch, times the heads.
    """
    size = max(1, SCORES // max(1, rows * visible.keys))
    if size >= visible.queries or torch.compiler.is_compiling():
        yield 0, visible.queries, visible.mask()
        return
    for first in range(0, visible.queries, size):
        last = min(first + size, visible.queries)
        yield first, last, visible.part(slice(None), (first, last), (0, visible.keys))


@torch.no_grad()
def mean_weights(q: Tensor, k: Tensor, visible: Visibility, scoring: Scoring) -> Tensor:
    """(B, T, S): the mean over heads of the attention weights, which sum to 1; all 0 for a query without any key.

    Args:
        q: queries (B, H, T, K).
        k: keys (B, G, S, K).
        visible: what the queries see.
        scoring: the options of the scores; what is on a sink is left out.
    """
    found: list[Tensor] = []
    for first, last, mask in parts_of_queries(visible, q.shape[0] * q.shape[1]):
        bias = None if scoring.bias is None else scoring.bias.rows(first, last, q.shape[2])
        weights = attention_weights(q[:, :, first:last], k, mask, scoring._replace(bias=bias)).sum(1)
        weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
        found.append(weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny))
    return torch.cat(found, dim=1)


def highest(scores: Tensor, count: int, *, last: bool) -> Tensor:
    """(..., S) -> bool, True for the ``count`` highest scores of each row; of equal scores the last, or any."""
    best = scores.topk(count)
    if not last:
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best.indices, True)
    least = best.values[..., -1:]
    above, equal = scores > least, scores == least
    left = count - above.sum(-1, keepdim=True)
    return above | (equal & (equal.flip(-1).cumsum(-1, dtype=torch.int32).flip(-1) <= left))
