"""Logits from a matrix of its own."""

from torch import Tensor, nn

from blocks.base import Head, Site, TransformFactory
from registry import register


@register("own")
class OwnHead(Head):
    """A linear projection to the vocabulary, not shared with the embedding.

    Args:
        bias: a learned number for each token, added to its logit.
        transform: what happens to the vectors first; null for nothing.
    """

    paper = "Vaswani et al., 2017, arXiv:1706.03762, section 3.4"

    def __init__(
        self, site: Site, vocab_size: int, width: int, *, bias: bool = False, transform: TransformFactory | None = None
    ) -> None:
        super().__init__(site)
        self.transform = transform(site, width) if transform else None
        self.project = nn.Linear(width if transform else site.dim, vocab_size, bias=bias)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        return self.project(x if self.transform is None else self.transform(x))
