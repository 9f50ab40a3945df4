"""Hyper-connections."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from blocks.base import Axis, Factory, Fixed, Norm, Residual, Site, Streams
from blocks.norms.layer import LayerNorm
from blocks.residual.pre import PreNorm
from blocks.residual.streams import FIRST_SCALE, StreamWeights, WeightedStreamsResidual, parts, projected, recorded
from registry import register


@register("hyper")
class HyperConnection(WeightedStreamsResidual):
    """Several streams, each of which a sublayer reads, mixes and writes with weights of any sign.

    At the start a sublayer of layer l reads stream l mod N and writes to all with weight 1, so that all streams are
    equal, and are that of the inner residual.

    Args:
        streams: number N of residual streams.
        dynamic: add a part that depends on the token to each weight: a small factor times the tanh of a projection of
            the stream. False: weights are learned constants.
        streams_norm: norm of each stream before that projection.
        inner: the residual whose update is written, which places the norms around the sublayer.
    """

    paper = "Zhu et al., 2024, arXiv:2409.19606"
    formula = (
        "y_i = sum_j A_(j i) x_j + b_i f(sum_j a_j x_j); "
        "(a_j, b_j, A_(j 1), ..., A_(j N)) = c_j + s ⊙ tanh(W norm(x_j))"
    )
    intermediates = recorded(
        "a_j = c_j{scale:+ s tanh(w_a^T streams_norm(x_j))}",
        "b_j = c_j{scale:+ s tanh(w_b^T streams_norm(x_j))}",
        "A_(j i) = c_(j i){scale:+ s tanh(w_i^T streams_norm(x_j))}",
    )

    def __init__(
        self,
        site: Site,
        *,
        streams: Streams = 4,
        dynamic: bool = True,
        streams_norm: Factory[Norm] = LayerNorm,
        inner: Factory[Residual] = PreNorm,
    ) -> None:
        super().__init__(site, streams, inner)
        self.first = site.layer % streams
        self.bias = nn.Parameter(torch.empty(streams * (2 + streams)))
        self.streams_norm = streams_norm(site) if dynamic else None
        self.weight = nn.Parameter(torch.empty(2 + streams, site.dim)) if dynamic else None
        self.scale = nn.Parameter(torch.empty(3)) if dynamic else None

    def constants(self) -> Mapping[str, float | Sequence[float]]:
        places = range(self.streams)
        read, mix = [float(j == self.first) for j in places], [float(i == j) for j in places for i in places]
        return {"bias": [*read, *(1.0 for _ in places), *mix], "weight": 0.0, "scale": FIRST_SCALE}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        outputs = 2 + self.streams
        return {"weight": (Fixed(outputs), None), "bias": (Fixed(self.streams * outputs),), "scale": (Fixed(3),)}

    def weights(self, x: Tensor) -> StreamWeights:
        count = self.streams
        wide = torch.promote_types(x.dtype, torch.float32)
        read, write, mix = parts(self.bias.to(wide), (count, count, count * count))
        mix = mix.view(count, count)
        if self.weight is None or self.scale is None or self.streams_norm is None:
            ones = torch.ones(x.shape[:-2], dtype=wide, device=x.device)[..., None]  # (B, T, 1)
            return StreamWeights(ones * read, ones * write, ones[..., None] * mix)
        moved = projected(self.streams_norm(x), self.weight).tanh()  # (B, T, N, 2 + N)
        for_read, for_write, for_mix = self.scale.to(wide)
        return StreamWeights(
            read + for_read * moved[..., 0], write + for_write * moved[..., 1], mix + for_mix * moved[..., 2:]
        )

    def flops_per_token(self, length: int) -> float:
        own = 0 if self.weight is None else 2 * self.streams * self.weight.numel()
        return super().flops_per_token(length) + own
