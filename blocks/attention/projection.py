"""From vectors to heads: project, normalise, clip, and split."""

from typing import Literal

from torch import Tensor, nn

from blocks.base import Factory, Norm, Site

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
        y = y.view(*input.shape[:2], self.heads, self.head_dim)
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
