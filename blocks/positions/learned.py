"""Learned position embeddings."""

from collections.abc import Mapping

from torch import Tensor, nn

from blocks.base import Axis, Context, InputPositions, Intermediate, PositionAxis, Site, described
from registry import Capabilities, NonNegative, register


@register("learned")
class LearnedPositions(InputPositions):
    """Add a learned vector per position; sequences longer than the model's ``max_length`` are an error.

    Args:
        offset: number of unused rows of the table before the first position.
    """

    paper = "Gehring et al., 2017, arXiv:1705.03122; used by BERT and GPT-2"
    formula = "y_t = x_t + table[t]"
    capabilities = Capabilities(any_length=False)
    intermediates = described(
        encoding=Intermediate("A learned vector for each position.", ("token", "width"), "P_(pos)"),
        output=Intermediate(
            "Vectors of tokens and of their positions are added.",
            ("token", "width"),
            "x + P_(pos)",
            ("input", "encoding"),
        ),
    )

    def __init__(self, site: Site, *, offset: NonNegative = 0) -> None:
        super().__init__(site)
        self.offset, self.max_length = offset, site.max_length
        self.table = nn.Embedding(site.max_length + offset, site.dim)

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {"table.weight": (PositionAxis(self.table.num_embeddings, before=self.offset), None)}

    def forward(self, x: Tensor, context: Context) -> Tensor:
        length = context.offset + context.length if context.fixed is None else 0
        if length > self.max_length:  # padding and documents use fewer positions than tokens
            length = int(context.positions.max()) + 1
        if length > self.max_length:
            raise ValueError(
                f"a sequence of {length} tokens is longer than max_length={self.max_length}, the size of the table of "
                "learned positions; shorten it"
            )
        found = self.table(context.positions + self.offset if self.offset else context.positions)
        found = found.expand_as(x)
        self.record(encoding=found)
        return x + found
