"""An extra prediction that continues from the one before it."""

from collections.abc import Mapping

import torch
from torch import Tensor

from blocks.attention.key_reuse import sources_of
from blocks.attention.key_selector import check_choices
from blocks.base import Axis, Context, ExtraPrediction, Factory, Layer, Linear, Norm, Site, check_one_stream
from blocks.layers.sequential import SequentialLayer
from blocks.norms.rms import RMSNorm
from registry import register


@register("sequential")
class SequentialPrediction(ExtraPrediction):
    """A layer on the vectors of the prediction before and the token that it predicts, so that all tokens are known.

    norm(layer(W [norm(previous); norm(ahead)])), where ahead is the embedding of the token before the predicted one.

    Args:
        layer: one layer.
        norm: norm of the previous vectors, of the embedding, and after the layer; each has weights of its own.
    """

    paper = "DeepSeek-AI, 2024, DeepSeek-V3 Technical Report, arXiv:2412.19437, section 2.2"
    formula = "y = norm(layer(W [norm(previous), norm(ahead)]))"

    def __init__(self, site: Site, *, layer: Factory[Layer] = SequentialLayer, norm: Factory[Norm] = RMSNorm) -> None:
        super().__init__(site)
        self.previous_norm, self.ahead_norm = norm(site), norm(site)
        self.project = Linear(site, 2 * site.dim, site.dim, bias=False)
        self.layer, self.norm = layer(site), norm(site)
        check_choices([self.layer])  # it has no layer before it
        sources_of([self.layer])
        check_one_stream(self.layer.streams, "the layer of extra prediction sequential")

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {"project.weight": (None, None)}

    def forward(self, x: Tensor, previous: Tensor, ahead: Tensor, context: Context) -> Tensor:
        both = torch.cat([self.previous_norm(previous), self.ahead_norm(ahead)], dim=-1)  # (B, T, 2D)
        self.layer.prepare(context)
        return self.norm(self.layer(self.project(both), context))
