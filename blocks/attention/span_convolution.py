"""Attention beside convolutions whose kernels depend on the text."""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.attention.eager import attention_weights
from blocks.attention.projection import HeadProjection, projection_axes, score_scale
from blocks.attention.scoring import Scoring
from blocks.base import Axis, Context, Fixed, Heads, Linear, Mixer, Site
from registry import Capabilities, Positive, Probability, register


@register("span_convolution")
class SpanConvolution(Mixer):
    """Softmax attention in half of the heads, convolutions of conv_v(x) in the others.

    The kernel of a head and token is softmax(kernel(q * span(x))), where span convolves within, then across channels.

    The convolutions read the tokens beside each token whether they are padding or not, so padding is not supported.

    Args:
        heads: number of heads of each half.
        head_dim: width of each head; null: dim / (2 * heads).
        kernel: number of tokens that a convolution reads, an odd number.
        bias: use biases in all projections.
        dropout: probability of dropping an attention weight during training.
    """

    paper = "Jiang et al., 2020, arXiv:2008.02496"
    formula = (
        "A = softmax(scale * q k^T) v; kernel_t = softmax(W (q_t ⊙ span(x)_t)); "
        "c_t = sum_j kernel_(t,j) conv_v(x)_(t+j); y = out([A, c])"
    )
    outputs = ("out",)
    capabilities = Capabilities(places=frozenset({"bidirectional"}), padding=False, documents=False, ordered=True)

    expected_failures: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (
            "mixer/span_convolution/bidirectional[kernel=1]: gradients_reach_every_parameter",
            "mixer/span_convolution/bidirectional[kernel=1]: projections_take_adapters",
            "mixer/span_convolution/bidirectional[kernel=1]: token_order_matters_only_if_declared",
        ),
        "a kernel of one token has the weight 1 whatever it is made from",
    )

    def __init__(
        self,
        site: Site,
        *,
        heads: Positive = 4,
        head_dim: Positive | None = None,
        kernel: Positive = 9,
        bias: bool = True,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(site)
        if kernel % 2 == 0:
            raise ValueError(f"kernel={kernel} has no token in its middle; choose an odd number")
        self.heads, self.head_dim = heads, head_dim or site.head_dim(2 * heads)
        self.width, self.dropout = kernel, dropout
        self.scale = score_scale(site, None, self.head_dim, grows=head_dim is None)
        inner = heads * self.head_dim
        self.q = HeadProjection(site, site.dim, heads, self.head_dim, bias=bias)
        self.k = HeadProjection(site, site.dim, heads, self.head_dim, bias=bias)
        self.v = HeadProjection(site, site.dim, heads, self.head_dim, bias=bias)
        self.depthwise = nn.Parameter(torch.empty(site.dim, kernel))
        self.pointwise = Linear(site, site.dim, inner, bias=bias)
        self.kernel = Linear(site, inner, heads * kernel, bias=bias)
        self.conv_v = Linear(site, site.dim, inner, bias=bias)
        self.out = Linear(site, 2 * inner, site.dim, bias=bias)

    def constants(self) -> Mapping[str, float]:
        return {"depthwise": 1 / self.width}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        heads = Heads(self.heads, self.head_dim, keys=self.heads)
        kernels, writes = Fixed(self.heads * self.width), Heads(2 * self.heads, self.head_dim, zero_new=True)
        return {
            **projection_axes(("q", "k", "v", "pointwise", "conv_v"), heads),
            "depthwise": (None, Fixed(self.width)),
            "kernel.weight": (kernels, heads),
            "kernel.bias": (kernels,),
            "out.weight": (None, writes),
            "out.bias": (None,),
        }

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q = self.q(x)  # (B, H, T, K)
        weights = attention_weights(q, self.k(x), None, Scoring(self.scale))
        attended = F.dropout(weights, self.dropout if self.training else 0.0) @ self.v(x)
        span = self.pointwise(self._depthwise(x))  # (B, T, H * K)
        kernel = self.kernel(span * q.transpose(1, 2).flatten(2))
        kernel = kernel.unflatten(-1, (self.heads, self.width)).softmax(dim=-1)  # (B, T, H, kernel)
        windows = torch.stack(_near(self.conv_v(x), self.width), dim=-1)
        values = windows.view(*windows.shape[:2], self.heads, self.head_dim, self.width)
        convolved = torch.matmul(values, kernel[..., None]).squeeze(-1)  # (B, T, H, K)
        return self.out(torch.cat([attended.transpose(1, 2), convolved], dim=2).flatten(2))

    def _depthwise(self, x: Tensor) -> Tensor:
        """The sum of each token's window in each channel, by the channel's weights."""
        y = x.new_zeros(())
        for place, near in enumerate(_near(x, self.width)):
            y = torch.addcmul(y, near, self.depthwise[:, place])
        return y

    def flops_per_token(self, length: int) -> float:
        inner = self.heads * self.head_dim
        return super().flops_per_token(length) + 4 * inner * length + 2 * inner * self.width


def _near(x: Tensor, width: int) -> list[Tensor]:
    """For each place of a window, from ``width // 2`` before to as many after: the token there, (B, T, C).

    Slices, not ``unfold``, which torch.compile compiles anew for longer texts.
    """
    padded = F.pad(x, (0, 0, width // 2, width // 2))
    return [padded[:, start : start + x.shape[1]] for start in range(width)]
