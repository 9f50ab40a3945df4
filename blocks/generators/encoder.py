"""A small encoder that proposes tokens in place of masked ones."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated

from annotated_types import Gt, Le
from torch import Tensor

from blocks.base import Axis, Context, Factory, Generator, HeadFactory, Linear, Site, Stack
from blocks.heads.mlm import MLMTransform
from blocks.heads.tied import TiedHead
from blocks.stacks.layers import LayerStack
from registry import Capabilities, register

TRANSFORMED = partial(TiedHead, transform=MLMTransform, bias=True)


@register("encoder")
class EncoderGenerator(Generator):
    """encoder(W x + b), and a head: a narrow encoder on the embeddings of the model, whose token table it shares.

    Args:
        share: its width as a share of the model's, which must be a whole number; 1: without W and b.
        encoder: stack of layers.
        head: maps its vectors to logits.
    """

    paper = "Clark et al., 2020, ELECTRA: Pre-training Text Encoders as Discriminators, arXiv:2003.10555, section 3.2"
    formula = "y = head(encoder(W x + b))"
    capabilities = Capabilities(places=frozenset({"bidirectional"}))

    def __init__(
        self,
        site: Site,
        vocab_size: int,
        width: int,
        *,
        share: Annotated[float, Gt(0), Le(1)] = 0.25,
        encoder: Factory[Stack] = LayerStack,
        head: HeadFactory = TRANSFORMED,
    ) -> None:
        super().__init__(site)
        dim = round(site.dim * share)
        if abs(dim - site.dim * share) > 1e-6 or not dim:
            raise ValueError(f"share={share:g} of dim={site.dim} is not a whole number; change one of them")
        inner = site.resized(dim)
        self.project = Linear(site, site.dim, dim) if dim != site.dim else None
        self.encoder = encoder(inner)
        self.head = head(inner, vocab_size, width)
        if self.head.pooled or self.head.per_token:
            raise ValueError("the head of a generator must give logits of token ids, such as tied")

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {"project.weight": (None, None), "project.bias": (None,)}

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.encoder(x if self.project is None else self.project(x), context)
