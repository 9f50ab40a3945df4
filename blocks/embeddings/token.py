"""A table of learned token vectors."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from torch import Tensor, nn

from blocks.base import (
    Axis,
    Context,
    Embedding,
    Factory,
    Fixed,
    InputPositions,
    Intermediate,
    Linear,
    Norm,
    Site,
    Vocabulary,
    described,
)
from blocks.positions.sinusoidal import SinusoidalPositions
from registry import NonNegative, Positive, PositiveFloat, Probability, register


@register("token")
class TokenEmbedding(Embedding):
    """scale * table[token] + positions + segments, then norm, dropout, and a projection if ``width`` is not dim.

    Args:
        scale: factor on the token vectors; sqrt_dim: square root of their width, as in the original Transformer.
        positions: position encoding added to the token vectors.
        segments: number of segment ids (BERT's token types), each with a learned vector that is added; 0: none.
        norm: norm of the sum; null: disabled.
        dropout: probability of zeroing an element during training.
        width: width of the table, projected to dim if different (factorised, as in ALBERT); null: dim.
    """

    paper = "Vaswani et al., 2017, arXiv:1706.03762, section 3.4; Devlin et al., 2018, arXiv:1810.04805"
    intermediates = described(
        vectors=Intermediate(
            "Each token id is looked up in a table of learned vectors.", ("token", "width"), "E_(id) * {scale:root}"
        ),
        output=Intermediate("The vectors with which the first layer begins.", ("token", "width")),
    )

    def __init__(
        self,
        site: Site,
        vocab_size: int,
        tokens: nn.Embedding | None,
        *,
        scale: Literal["sqrt_dim"] | PositiveFloat = 1.0,
        positions: Factory[InputPositions] = SinusoidalPositions,
        segments: NonNegative = 0,
        norm: Factory[Norm] | None = None,
        dropout: Probability = 0.0,
        width: Positive | None = None,
    ) -> None:
        super().__init__(site)
        self.width = width or site.dim
        narrow = site.resized(self.width)
        if self.width != site.dim:
            narrow = replace(narrow, width_multiplier=1.0)  # the same in models of all widths
        self.scale = (self.width / narrow.width_multiplier) ** 0.5 if scale == "sqrt_dim" else scale
        self._shared = (tokens,) if tokens is not None else ()  # in a tuple, so that only its owner registers it
        if tokens is None:
            self.tokens = nn.Embedding(vocab_size, self.width)
        elif tokens.embedding_dim != self.width:
            raise ValueError(
                f"the shared token table has width={tokens.embedding_dim}, but this embedding has width={self.width}; "
                "make them equal or set share_tokens=false"
            )
        self.positions = positions(narrow)
        self.segments = nn.Embedding(segments, self.width) if segments else None
        self.norm = norm(narrow) if norm else None
        self.dropout = nn.Dropout(dropout)
        self.project = Linear(site, self.width, site.dim) if self.width != site.dim else None

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        width = None if self.project is None else Fixed(self.width)
        axes: dict[str, tuple[Axis | None, ...]] = {"project.weight": (None, width)}
        if self.segments is not None:
            axes["segments.weight"] = (Fixed(self.segments.num_embeddings), width)
        return axes if self._shared else axes | {"tokens.weight": (Vocabulary(self.tokens.num_embeddings), width)}

    @property
    def table(self) -> Tensor:
        return self._tokens.weight

    @property
    def _tokens(self) -> nn.Embedding:
        return self._shared[0] if self._shared else self.tokens

    def forward(self, tokens: Tensor, context: Context, segments: Tensor | None = None) -> Tensor:
        x = self._tokens(tokens)
        if self.scale != 1.0:
            x = x * self.scale
        self.record(vectors=x)
        x = self.positions(x, context)
        if self.segments is not None:
            x = x + (self.segments(segments) if segments is not None else self.segments.weight[0])
        elif segments is not None:
            raise ValueError("segment ids were given, but the embedding has segments=0; leave them out or set segments")
        if self.norm is not None:
            x = self.norm(x)
        x = self.dropout(x)
        return x if self.project is None else self.project(x)
