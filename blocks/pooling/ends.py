"""Pooling by one token."""

import torch
from torch import Tensor

from blocks.base import Pooling
from registry import Capabilities, register


@register("first")
class FirstToken(Pooling):
    """The vector of the first token, such as BERT's [CLS].

    It is for bidirectional models: in a causal one the first token sees no other.
    """

    paper = "Devlin et al., 2018, arXiv:1810.04805, section 4.1"
    formula = "y = x_1"
    capabilities = Capabilities(places=frozenset({"bidirectional"}), documents=False, cache=False)

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        return _chosen(x, mask.long().argmax(dim=1))


@register("last")
class LastToken(Pooling):
    """The vector of the last token, which in a causal model is the only one that sees the whole text."""

    paper = "Radford et al., 2018, Improving Language Understanding by Generative Pre-Training, section 3.2"
    formula = "y = x_T"

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        places = torch.arange(1, x.shape[1] + 1, device=x.device)
        return _chosen(x, (mask.long() * places).argmax(dim=1))


def _chosen(x: Tensor, index: Tensor) -> Tensor:
    """(B, D): the vector at an index of each row."""
    return x.gather(1, index[:, None, None].expand(-1, 1, x.shape[2])).squeeze(1)
