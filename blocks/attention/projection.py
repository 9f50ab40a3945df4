"""From vectors to heads: project, normalise, clip, and split."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from torch import Tensor, nn

from blocks.base import Axis, Factory, Norm, Site

NormOver = Literal["head", "heads", "projection"]


class HeadProjection(nn.Linear):
    """A linear projection to ``heads`` heads; what it gives can be normalised and clipped before it is turned."""

    def __init__(self, width: int, heads: int, head_dim: int, *, bias: bool) -> None:
        super().__init__(width, heads * head_dim, bias=bias)  # pyright: ignore[reportUnknownMemberType]
        self.heads, self.head_dim = heads, head_dim

    def forward(
        self, input: Tensor, norm: Norm | None = None, over: NormOver = "head", clip: float | None = None
    ) -> Tensor:
        """(B, T, D) -> (B, H, T, K)"""
        y = super().forward(input)
        if norm is not None and over == "projection":
            y = norm(y)
        y = y.view(*y.shape[:2], y.shape[2] // self.head_dim, self.head_dim)  # of the heads that are here
        if norm is not None and over != "projection":
            y = norm(y)
        if clip is not None:
            y = y.clamp(-clip, clip)
        return y.transpose(1, 2)


def head_norm(norm: Factory[Norm], site: Site, heads: int, head_dim: int, over: NormOver) -> Norm:
    """A norm over each head with one set of weights, over each head with its own, or over the whole projection."""
    if over == "projection":
        return norm(site.resized(heads * head_dim))
    return norm(site.resized(head_dim, heads if over == "heads" else None))


def projection_axes(names: tuple[str, ...], heads: Axis) -> Mapping[str, tuple[Axis | None, ...]]:
    """The axes of projections to ``heads``, for a block's ``axes``."""
    return {f"{name}.weight": (heads, None) for name in names} | {f"{name}.bias": (heads,) for name in names}


def head_norm_axes(name: str, norm: Norm | None, heads: Axis, over: NormOver) -> Mapping[str, tuple[Axis | None, ...]]:
    """The axes of what :func:`head_norm` made, which knows heads unless one set of weights serves all."""
    if norm is None or over == "head":
        return {}
    parameters = {f"{name}.{leaf}": parameter for leaf, parameter in norm.named_parameters()}
    if over == "heads":
        return {leaf: (replace(heads, each=1), None) for leaf, one in parameters.items() if one.ndim == 2}
    return {leaf: (heads,) for leaf, one in parameters.items() if one.numel() == heads.size * heads.each}
