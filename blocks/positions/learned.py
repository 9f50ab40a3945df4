"""A learned vector for each position."""

from torch import Tensor, nn

from blocks.base import Context, InputPositions, Site
from registry import register


@register("learned")
class LearnedPositions(InputPositions):
    """Add a trained vector for each of the model's ``max_length`` positions; longer sequences are refused."""

    paper = "Gehring et al., 2017, arXiv:1705.03122; used by BERT and GPT-2"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.table = nn.Embedding(site.max_length, site.dim)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        length = context.offset + context.length
        if length > self.table.num_embeddings and context.attention_mask is not None:
            length = int(context.positions.max()) + 1  # padding takes up no positions
        if length > self.table.num_embeddings:
            raise ValueError(
                f"a sequence of {length} tokens is longer than max_length={self.table.num_embeddings}, "
                "and learned positions end there"
            )
        return x + self.table(context.positions)
