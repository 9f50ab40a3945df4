"""A table of learned token vectors."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from blocks.base import (
    Axis,
    Context,
    Embedding,
    Factory,
    Feature,
    Fixed,
    InputPositions,
    Intermediate,
    Linear,
    Norm,
    Site,
    Vocabulary,
    described,
)
from blocks.base.intermediates import as_root
from blocks.positions.sinusoidal import SinusoidalPositions
from registry import NonNegative, Positive, PositiveFloat, Probability, register


@register("token")
class TokenEmbedding(Embedding):
    """scale * table[token] + positions + segments + features, then norm, dropout, and a projection.

    Features are ids besides those of the tokens, such as the shape or the sound of a character, each with a table; a
    feature that is not given is 0 for every token.

    Args:
        scale: factor on the token vectors; sqrt_dim: square root of their width, as in the original Transformer.
        positions: position encoding added to the token vectors.
        segments: number of segment ids (BERT's token types), each with a learned vector that is added; 0: none.
        features: number of ids of each feature, by its name.
        feature_widths: width of the vectors of the features that are joined to the token vectors, which are then
            projected to dim; the vectors of others are added.
        neighbors: number of tokens on each side whose vectors are joined to those of a token, from the last to the
            first, and projected to dim; those of other documents are 0.
        neighbor_padding: vector of a neighbor that is padding: zero, or that of its id (read), with which texts
            depend on their padding.
        norm: norm of the sum; null: disabled.
        norm_first: apply the norm to the token vectors, before anything is added.
        dropout: probability of zeroing an element during training.
        width: width of the table (factorised, as in ALBERT); null: dim.
        projection: project the result of the dropout (last), or the token vectors before anything is added (first);
            null: first where vectors are joined, last where the width is not dim, else none.
    """

    paper = (
        "Vaswani et al., 2017, arXiv:1706.03762, section 3.4; Devlin et al., 2018, arXiv:1810.04805; projection: Lan "
        "et al., 2019, arXiv:1909.11942; neighbors: Sun et al., 2020, arXiv:2004.02984; features: Su et al., 2022, "
        "RoCBert, ACL"
    )
    formula = "x_t = norm(scale * table[token_t] + positions_t + segments_t)"
    intermediates = described(
        vectors=Intermediate(
            "Each token id is looked up in a table of learned vectors.", ("token", "width"), "x = {looked_up}"
        ),
        output=Intermediate(
            "The vectors with which the first layer begins.", ("token", "width"), "{result}", ("vectors",)
        ),
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
        features: Mapping[str, Positive] | None = None,
        feature_widths: Mapping[str, Positive] | None = None,
        neighbors: NonNegative = 0,
        neighbor_padding: Literal["zero", "read"] = "zero",
        norm: Factory[Norm] | None = None,
        norm_first: bool = False,
        dropout: Probability = 0.0,
        width: Positive | None = None,
        projection: Literal["last", "first"] | None = None,
    ) -> None:
        super().__init__(site)
        self.width = width or site.dim
        if neighbors and site.causal:
            raise ValueError("neighbors reads later tokens, which a causal model cannot; set it to 0")
        self.neighbors, self.reads_padding = neighbors, neighbors > 0 and neighbor_padding == "read"
        self.features, self.joined, joined = _features(features or {}, feature_widths or {}, site)
        joined += self.width * (1 + 2 * neighbors)
        needed = "first" if joined != self.width else "last" if self.width != site.dim else None
        self.projection = projection or needed
        if needed == "first" != self.projection:
            raise ValueError("projection=last does not work where vectors are joined; leave it out")
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
        inner = site if self.projection == "first" else narrow
        for name, size in (features or {}).items():
            if name not in self.joined:
                self.features[name] = nn.Embedding(size, inner.dim)
        self.positions = positions(inner)
        self.segments = nn.Embedding(segments, inner.dim) if segments else None
        self.norm, self.norm_first = norm(inner) if norm else None, norm_first and norm is not None
        self.dropout = nn.Dropout(dropout)
        self.project = Linear(site, joined, site.dim) if self.projection else None

    @property
    def looked_up(self) -> str:
        """The token vectors in their formula: joined and projected as in this model."""
        at, count = ("_t" if self.neighbors else ""), self.neighbors
        vectors = f"E_(id{at})" if self.scale == 1 else f"E_(id{at}) * {as_root(self.scale)}"
        between = "z_t" if count == 1 else "..."
        joined = [f"z_(t+{count})", between, f"z_(t-{count})"] if count else ["z"]
        joined += [f"F_({name})" for name in self.joined]
        found = vectors if len(joined) == 1 else f"[{', '.join(joined)}]"
        found = f"{found} W + b" if self.projection == "first" else found
        return found if len(joined) == 1 else f"{found}; z{at} = {vectors}"

    @property
    def result(self) -> str:
        """What the embedding returns, in its formula: what is added to the token vectors x, and made of the sum."""
        first = "positions(norm(x))" if self.norm_first else "positions(x)"
        terms = [first, *(["S_(segment)"] if self.segments is not None else [])]
        found = " + ".join(terms + [f"F_({name})" for name in self._features if name not in self.joined])
        if self.norm is not None and not self.norm_first:
            found = f"norm({found})"
        elif self.projection == "last" and " + " in found:
            found = f"({found})"
        return f"{found} W + b" if self.projection == "last" else found

    def read_features(self) -> Mapping[str, Feature]:
        return {name: Feature(table.num_embeddings) for name, table in self._features.items()}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        grown = self.project is None or self.width == self.project.out_features
        width = None if grown else Fixed(self.width)
        inner = None if self.projection == "first" else width
        axes: dict[str, tuple[Axis | None, ...]] = {}
        if not self.joined and self.project is not None:
            axes["project.weight"] = (None, None if grown else Fixed(self.project.in_features))
        if self.segments is not None:
            axes["segments.weight"] = (Fixed(self.segments.num_embeddings), inner)
        for name, table in self._features.items():
            wide = Fixed(table.embedding_dim) if name in self.joined else inner
            axes[f"features.{name}.weight"] = (Fixed(table.num_embeddings), wide)
        return axes if self._shared else axes | {"tokens.weight": (Vocabulary(self.tokens.num_embeddings), width)}

    @property
    def table(self) -> Tensor:
        return self._tokens.weight

    @property
    def _tokens(self) -> nn.Embedding:
        return self._shared[0] if self._shared else self.tokens

    @property
    def _features(self) -> dict[str, nn.Embedding]:
        return dict(self.features.items())  # pyright: ignore[reportReturnType]

    def forward(self, tokens: Tensor, context: Context, segments: Tensor | None = None) -> Tensor:
        x = self._tokens(tokens)
        if self.scale != 1.0:
            x = x * self.scale
        if self.neighbors:
            mask = None if self.reads_padding else context.attention_mask
            x = _with_neighbors(x, self.neighbors, mask, context.documents)
        features = {name: _vectors(table, context.features.get(name), x) for name, table in self._features.items()}
        if self.joined:
            x = torch.cat([x, *(features.pop(name) for name in self.joined)], dim=-1)
        if self.project is not None and self.projection == "first":
            x = self.project(x)
        self.record(vectors=x)
        if self.norm is not None and self.norm_first:
            x = self.norm(x)
        x = self.positions(x, context)
        if self.segments is not None:
            x = x + (self.segments(segments) if segments is not None else self.segments.weight[0])
        elif segments is not None:
            raise ValueError("segment ids were given, but the embedding has segments=0; leave them out or set segments")
        for vectors in features.values():
            x = x + vectors
        if self.norm is not None and not self.norm_first:
            x = self.norm(x)
        x = self.dropout(x)
        return self.project(x) if self.project is not None and self.projection == "last" else x


def _features(
    sizes: Mapping[str, int], widths: Mapping[str, int], site: Site
) -> tuple[nn.ModuleDict, tuple[str, ...], int]:
    """The tables of the features that are joined to the token vectors, their names, and their width together."""
    if missing := [name for name in widths if name not in sizes]:
        raise ValueError(f"feature_widths has {missing[0]!r}, which features lacks; add its number of ids there")
    tables = nn.ModuleDict()
    for name in sizes:
        if not name.isidentifier() or hasattr(tables, name):
            raise ValueError(f"features cannot have the name {name!r}; choose another, of letters and digits")
        if name in widths:
            tables[name] = nn.Embedding(sizes[name], widths[name])
    joined = tuple(name for name in sizes if name in widths)
    return tables, joined, sum(widths.values())


def _vectors(table: nn.Embedding, ids: Tensor | None, x: Tensor) -> Tensor:
    """(B, T, width) vectors of a feature's ids (B, T), which are all 0 if it is not given."""
    return table.weight[0].expand(*x.shape[:2], -1) if ids is None else table(ids)


def _with_neighbors(x: Tensor, count: int, mask: Tensor | None, documents: Tensor | None) -> Tensor:
    """(B, T, D) -> (B, T, (2 * count + 1) D): the vectors from ``count`` tokens after each to as many before it.

    Zeros stand for tokens of another document, and for tokens that are False in ``mask``.
    """
    own = x if mask is None else x * mask[..., None]
    parts: list[Tensor] = []
    for shift in range(count, -count - 1, -1):
        part = _shifted(own, shift) if shift else x
        if documents is not None:
            part = part * (_shifted(documents, shift, -1) == documents)[..., None]
        parts.append(part)
    return torch.cat(parts, dim=-1)


def _shifted(x: Tensor, shift: int, fill: int = 0) -> Tensor:
    """x[:, t + shift] at each t, and ``fill`` where there is no such t."""
    shift = max(-x.shape[1], min(shift, x.shape[1]))
    border = torch.full_like(x[:, : abs(shift)], fill)
    return torch.cat([x[:, shift:], border], dim=1) if shift >= 0 else torch.cat([border, x[:, :shift]], dim=1)
