"""Choices of keys that several layers share."""

import torch.nn.functional as F
from torch import Tensor

from blocks.attention.key_selector import Choice, KeySelector, choice_of
from blocks.attention.visibility import Visibility
from blocks.base import Context, Site
from registry import Capabilities, register


@register("earlier")
class EarlierChoice(KeySelector):
    """Attend to the keys that the nearest earlier layer has chosen that makes a choice.

    It has no parameters and computes nothing, and the layer caches no keys of an index. With a window, a query attends
    to those of the keys that are in it.
    """

    paper = "Bai et al., 2026, arXiv:2603.12201"
    formula = "chosen_l(t) = chosen_(l - 1)(t)"
    capabilities = Capabilities(places=frozenset({"causal", "bidirectional"}))
    reuses = True

    def __init__(self, site: Site, query_dim: int) -> None:
        super().__init__(site)
        self.layer = site.layer

    def forward(
        self, x: Tensor, queries: Tensor, visible: Visibility, context: Context, window: int | None = None
    ) -> Choice:
        places = (choice_of(context, layer) for layer in range(self.layer - 1, -1, -1))
        place = next((place for place in places if place in context.shared), None)
        if place is None:
            raise ValueError(f"layer {self.layer} attends to the keys that an earlier layer has chosen, but none has")
        keys: Tensor | None = context.shared[place]
        if keys is None:
            return Choice()
        missing = visible.keys - keys.shape[-1]  # of a layer with another window, in decoding
        return Choice(F.pad(keys, (missing, 0)))
