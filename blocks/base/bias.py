"""Biases of attention scores that depend on distances."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class DistanceBias(NamedTuple):
    """A bias of the scores of T queries and S keys for each distance between them, so that it takes T + S - 1 values.

    Attributes:
        values: (1, H, T+S-1) float32, from the distance between the last query and the first key, 1 - S where the last
            query is the last key, to that between the first query and the last key; distances are key minus query.
        reach: distances of at least this many tokens share one value on each side; None: unknown. With it, blocked
            attention computes the gradient of a learned bias in linear time.
    """

    values: Tensor
    reach: int | None = None

    def rows(self, first: int, last: int, queries: int) -> "DistanceBias":
        """The bias of the queries from ``first`` to ``last``, excluded, of ``queries``."""
        return self._replace(values=self.values[..., queries - last : self.values.shape[-1] - first])

    def reversed_scores(self, keys: int) -> Tensor:
        """(1, H, T, S), a view, with the queries in reversed order."""
        return self.values.unfold(-1, keys, 1)

    def scores(self, keys: int) -> Tensor:
        """(1, H, T, S), the bias of each score.

        The values are repeated for each query, and read as rows that are longer by one: so each begins one later.
        """
        _, heads, distances = self.values.shape
        queries = distances - keys + 1
        repeated = self.values[0, :, None].expand(heads, queries, distances).reshape(heads, queries * distances)
        return F.pad(repeated, (0, queries)).view(1, heads, queries, distances + 1)[..., :keys].flip(2)

    def of_last(self, keys: int, queries: int) -> "DistanceBias":
        """The bias of the scores of the last ``keys`` keys."""
        return self._replace(values=self.values[..., self.values.shape[-1] - (keys + max(queries, 1) - 1) :])

    def plus(self, other: "DistanceBias") -> "DistanceBias":
        """The sum of two biases of the same scores."""
        reach = None if self.reach is None or other.reach is None else max(self.reach, other.reach)
        return DistanceBias(self.values + other.values, reach)
