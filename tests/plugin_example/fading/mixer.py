"""A mixer in which the past fades."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from blocks.base import Context, Mixer, Site
from registry import Capabilities, Positive, register


class Sums:
    """What decoding remembers: each row's sum, (B, H, K), and the position (B, 1) up to which it reaches."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self.reached: Tensor | None = None

    def reorder(self, rows: Tensor) -> None:
        """Follow a beam search."""
        if self.sums is not None and self.reached is not None:
            self.sums, self.reached = self.sums[rows], self.reached[rows]


@register("fading")
class FadingSum(Mixer):
    """out(sum_s a^(t-s) value(x_s)) over all tokens s up to t, with a learned a between 0 and 1 for each head.

    Args:
        heads: number of heads, each of which forgets at its own rate.
    """

    paper = "a worked example; the idea of one rate a head is that of Sun et al., 2023, arXiv:2307.08621"
    formula = "y_t = out(sum_(s<=t) a^(t-s) value(x_s))"
    capabilities = Capabilities(places=frozenset({"causal"}), prefix=False)
    outputs = ("out",)

    def __init__(self, site: Site, *, heads: Positive = 4) -> None:
        super().__init__(site)
        if site.dim % heads:
            raise ValueError(f"dim={site.dim} is not a multiple of heads={heads}")
        self.heads, self.head_dim = heads, site.dim // heads
        self.value = nn.Linear(site.dim, site.dim, bias=False)
        self.rate = nn.Parameter(torch.zeros(heads))
        self.out = nn.Linear(site.dim, site.dim, bias=False)

    def constants(self) -> Mapping[str, float]:
        """At first, a token counts for 0.88 of the one after it."""
        return {"rate": 2.0}

    def forward(self, x: Tensor, context: Context) -> Tensor:
        values = self.value(x).view(*x.shape[:2], self.heads, self.head_dim).transpose(1, 2)  # (B, H, T, K)
        places = context.positions.expand(x.shape[0], -1)  # (B, T), padding does not count
        y = self._weights(places, context).to(x.dtype) @ values
        state = context.state("mixer", Sums)
        if state is not None and x.shape[1]:
            y = self._continued(y, places, state)
        return self.out(y.transpose(1, 2).flatten(2))

    def _faded(self, gaps: Tensor) -> Tensor:
        """(B, ...) distances -> (B, H, ...) what is left after them, in float32 or wider."""
        logs = nn.functional.logsigmoid(self.rate.to(torch.promote_types(self.rate.dtype, torch.float32)))
        return torch.exp(logs.view(1, -1, *(1,) * (gaps.ndim - 1)) * gaps[:, None])

    def _weights(self, places: Tensor, context: Context) -> Tensor:
        """(B, H, T, T): how much each token counts for each."""
        length = places.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool, device=places.device).tril()[None]
        if context.attention_mask is not None:
            seen = seen & context.attention_mask[:, None, context.attention_mask.shape[1] - length :]
        if context.documents is not None:
            seen = seen & (context.documents[:, :, None] == context.documents[:, None])
        gaps = (places[:, :, None] - places[:, None]).clamp(min=0)
        return self._faded(gaps) * seen[:, None]

    def _continued(self, y: Tensor, places: Tensor, state: Sums) -> Tensor:
        """Add what is left of the tokens before these, and remember the last sum."""
        if state.sums is not None and state.reached is not None:
            left = self._faded((places - state.reached).clamp(min=0)).to(y.dtype)  # (B, H, T)
            y = y + left[..., None] * state.sums[:, :, None]
        state.sums, state.reached = y[:, :, -1], places[:, -1:]
        return y

    def flops_per_token(self, length: int) -> float:
        return super().flops_per_token(length) + 2 * length * self.heads * self.head_dim

    @property
    def cached_per_sequence(self) -> int:
        return self.heads * self.head_dim + 1
