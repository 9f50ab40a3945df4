"""Broken adapters, and a block that goes past them."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from blocks.adapters.lora import LoRA
from blocks.base import FeedForward, Linear, Site
from tests.conformance.broken.base import caught_by


@caught_by("projections_take_adapters")
class GoesPastAdapters(FeedForward):
    """Multiplies with the weight itself."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.out = Linear(site, site.dim, site.dim)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.out.weight, self.out.bias)


class AlteredAdapter(LoRA):
    """An adapter right but for what a test does to it."""

    def __init__(self, in_features: int, out_features: int, experts: int | None) -> None:
        super().__init__(in_features, out_features, experts)


@caught_by("adapter_starts_at_zero")
class StartsFarAway(AlteredAdapter):
    """Changes the model before any training."""

    def constants(self) -> Mapping[str, float]:
        return {"b": 0.1}


@caught_by("adapter_equals_its_delta")
class ForgetsItsFactor(AlteredAdapter):
    """Is folded in without its factor."""

    def delta(self) -> Tensor:
        return super().delta() / self.factor
