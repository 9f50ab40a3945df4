"""Residuals of several streams: a sublayer reads a weighted sum of them, and its update is written to all of them.

Streams are read and mixed without autocast: rounded in each layer, they would lose small updates.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import torch.nn.functional as F
from torch import Tensor

from blocks.base import AdditiveResidual, Factory, Intermediate, Residual, Site, described
from blocks.base.precision import at_least_float32, without_autocast
from blocks.norms.rms import RMSNorm

FIRST_SCALE = 0.01
"""Initial factor on the part of a weight that depends on the token."""

WEIGHTLESS = partial(RMSNorm, weight=False)
"""The usual norm of the vector of all streams."""


class StreamWeights(NamedTuple):
    """The weights of each token, in float32 or wider.

    Attributes:
        read: (B, T, N), how much each stream counts in the vector that the sublayer reads.
        write: (B, T, N), how much of the update is added to each stream.
        mix: (B, T, N, N), in row j and column i how much of stream j goes into stream i; None: streams are not mixed.
    """

    read: Tensor
    write: Tensor
    mix: Tensor | None = None


class StreamsResidual(Residual, ABC):
    """Reads and writes several streams around the update of an inner residual.

    Args:
        site: where it sits.
        streams: number N of residual streams.
        inner: the residual whose update is written, which places the norms around the sublayer.
    """

    def __init__(self, site: Site, streams: int, inner: Factory[Residual]) -> None:
        super().__init__(site)
        built = inner(site)
        if not isinstance(built, AdditiveResidual):
            raise ValueError(
                "inner does not add an update to the stream, which several streams need; choose pre, output or sandwich"
            )
        self.streams, self.dim, self.inner = streams, site.dim, built

    def fallback_names(self) -> Mapping[str, str]:
        """The norms of the inner residual start from those of a residual with one stream."""
        return {f"inner.{name}": name for name, _ in self.inner.named_parameters()}


class WeightedStreamsResidual(StreamsResidual, ABC):
    """y_i = sum_j mix_(j i) x_j + write_i u(sum_j read_j x_j), where u is the update of an inner residual."""

    mixes: bool = True

    @abstractmethod
    def weights(self, x: Tensor) -> StreamWeights:
        """The weights of each token, given its streams (B, T, N, D)."""

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        read, write, mix = self.weights(x)
        update = self.inner.update(weighted_sum(x, read), sublayer)  # (B, T, D)
        kept = x if mix is None else mixed(x, mix)  # (B, T, N, D)
        self.record(read=read, write=write, update=update)
        if mix is not None:
            self.record(mix=mix)
        return (kept + write[..., None] * update[..., None, :]).to(x.dtype)

    def flops_per_token(self, length: int) -> float:
        return super().flops_per_token(length) + 2 * self.streams * self.dim * (1 + self.streams * self.mixes)


def recorded(read: str, write: str, mix: str = "") -> Mapping[str, Intermediate]:
    """The intermediates of a residual with several streams, given the formulas of its weights."""
    mixing = Intermediate(
        "How much of each stream goes into each stream.", ("token", "stream", "into"), mix, ("input",)
    )
    return described(
        read=Intermediate(
            "How much each stream counts in what the sublayer reads.", ("token", "stream"), read, ("input",)
        ),
        write=Intermediate(
            "How much of the sublayer's update is added to each stream.", ("token", "stream"), write, ("input",)
        ),
        **({"mix": mixing} if mix else {}),
        update=Intermediate(
            "What the sublayer adds to the streams, a vector for each token.",
            ("token", "width"),
            "Delta = f(sum_j a_j x_j)",
            ("input", "read"),
        ),
        output=Intermediate(
            "The streams after the sublayer.",
            ("token", "stream", "width"),
            "y_i = sum_j A_(j i) x_j + b_i Delta" if mix else "y_i = x_i + b_i Delta",
            ("input", *(["mix"] if mix else []), "write", "update"),
        ),
    )


def side_by_side(x: Tensor, dim: int) -> Tensor:
    """The streams of each token in one vector: (B, T, N, D) -> (B, T, N * D)"""
    return cast("Tensor", x.unflatten(-1, (dim,))).flatten(-2)  # unflatten checks the width


def projected(x: Tensor, weight: Tensor) -> Tensor:
    """W x in float32 or wider: (..., M) -> (..., outputs)"""
    wide = at_least_float32(x)
    with without_autocast(x):
        return F.linear(wide, weight.to(wide.dtype))


def affine_parts(y: Tensor, scale: Tensor, bias: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """Factor, then shift each group of outputs: scale * y + bias.

    Args:
        y: (..., sum of sizes).
        scale: (number of groups,), a factor for each group.
        bias: (sum of sizes,).
        sizes: number of outputs of each group.
    """
    moved, shifts = parts(y, sizes), parts(bias.to(y.dtype), sizes)
    return [factor * part + shift for factor, part, shift in zip(scale.to(y.dtype), moved, shifts, strict=True)]


def parts(x: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Consecutive parts of the last axis."""
    return cast("Any", x).split(sizes, dim=-1)


def weighted_sum(x: Tensor, weights: Tensor) -> Tensor:
    """sum_j w_j x_j of streams (B, T, N, D) with weights (B, T, N): (B, T, D)"""
    with without_autocast(x):
        return (weights.to(x.dtype)[..., None, :] @ x).squeeze(-2)


def mixed(x: Tensor, weights: Tensor) -> Tensor:
    """sum_j w_(j i) x_j for each stream i, of streams (B, T, N, D) with weights (B, T, N, N): (B, T, N, D)"""
    with without_autocast(x):
        return weights.to(x.dtype).mT @ x
