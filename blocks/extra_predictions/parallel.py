"""An extra prediction that depends on the tokens so far only."""

from torch import Tensor

from blocks.base import Context, ExtraPrediction, Factory, Layer, Norm, Site, check_one_stream
from blocks.layers.sequential import SequentialLayer
from blocks.norms.rms import RMSNorm
from registry import register


@register("parallel")
class ParallelPrediction(ExtraPrediction):
    """A layer of its own on the vectors from which the next token is predicted: norm(layer(x)).

    Each extra prediction of a model is independent of the others.

    Args:
        layer: one layer.
        norm: norm after it.
    """

    paper = "Gloeckle et al., 2024, Better & Faster Large Language Models via Multi-token Prediction, arXiv:2404.19737"
    formula = "y = norm(layer(x))"

    def __init__(self, site: Site, *, layer: Factory[Layer] = SequentialLayer, norm: Factory[Norm] = RMSNorm) -> None:
        super().__init__(site)
        self.layer, self.norm = layer(site), norm(site)
        check_one_stream(self.layer.streams, "the layer of extra prediction parallel")

    def forward(self, x: Tensor, previous: Tensor, ahead: Tensor, context: Context) -> Tensor:
        self.layer.prepare(context)
        return self.norm(self.layer(x, context))
