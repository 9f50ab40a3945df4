"""Tables of n-grams."""

from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from blocks.attention.projection import score_scale
from blocks.base import Axis, Context, Factory, Fixed, Intermediate, Linear, Lookup, Norm, Site, described
from blocks.lookups.hashing import factors, hashed, primes
from blocks.norms.rms import RMSNorm
from blocks.recurrent.base import RecurrentState, Rows, rows_of
from blocks.recurrent.convolution import last_values, short_convolution
from registry import Capabilities, NonNegative, Positive, register

SPACING = 10007
"""Difference of the seeds of one number and the next."""


@register("ngram")
class NgramLookup(Lookup):
    """Learned vectors of the last 2, 3, ... tokens, found by hashes, with a gate for each residual stream.

    Each length of n-grams has several tables, whose sizes are different primes, so that two n-grams rarely share all
    rows. Their vectors e, side by side, give a value for all streams and a key for each; a convolution over the gated
    values adds those of earlier tokens. At the start the convolution is 0.

    Args:
        longest: number of tokens of the longest n-grams.
        heads: number of tables for each length.
        width: width of the vectors of all tables together; null: dim.
        rows: least number of rows of a table.
        multiple: rows without a meaning make the number of all rows a multiple of this.
        number: of several in a model, each has another number, so that their tables have other sizes and hashes.
        seed: of the factors in the hashes.
        token_ids: number of token ids, for which products in the hashes fit into 63 bits.
        boundary: id of a token that n-grams do not reach beyond; null: only texts end them.
        kernel: number of tokens that the convolution reads, ``longest`` tokens apart.
        norm: norm of keys, of streams and of the convolution's inputs, each with weights of its own for each stream.
    """

    paper = "Cheng et al., 2026, arXiv:2601.07372; in each stream: Qwen Team, 2026 (Qwen4-Exp)"
    formula = (
        "v_i = g_i W_v e; g_i = σ(sqrt(|s_i|) * sgn(s_i)); s_i = stream_norm(x_i)^T k_norm(W_(k i) e) / sqrt(D); "
        'y_i = v_i + silu("conv"(convolution_norm(v_i)))'
    )
    outputs = ("v",)
    intermediates = described(
        found=Intermediate("The vectors of the n-grams that end with each token.", ("token", "feature"), "e"),
        gates=Intermediate(
            "How much of the value each stream takes.",
            ("token", "stream"),
            "g_i = σ(sqrt(|s_i|) * sgn(s_i))",
            ("input", "found"),
        ),
    )
    capabilities = Capabilities(ordered=True)

    def __init__(
        self,
        site: Site,
        streams: int,
        *,
        longest: Annotated[int, Ge(2)] = 3,
        heads: Positive = 4,
        width: Positive | None = None,
        rows: Annotated[int, Ge(2)] = 1024,
        multiple: Positive = 1,
        number: NonNegative = 0,
        seed: NonNegative = 0,
        token_ids: Positive = 2**18,
        boundary: NonNegative | None = None,
        kernel: Positive = 4,
        norm: Factory[Norm] = RMSNorm,
    ) -> None:
        super().__init__(site)
        tables, inner = (longest - 1) * heads, width or site.dim
        if inner % tables:
            raise ValueError(f"width={inner} is not a multiple of the {tables} tables; change width, longest or heads")
        self.longest, self.boundary, self.streams, self.dim = longest, boundary, streams, site.dim
        self.grows = width is None
        self.multipliers = factors(seed + SPACING * number, longest, token_ids)
        sizes = primes(rows, number * tables, tables)
        self.sizes = [sizes[first : first + heads] for first in range(0, tables, heads)]
        self.begins = [sum(sizes[:index]) for index in range(tables)]
        self.table = nn.Embedding(-(-sum(sizes) // multiple) * multiple, inner // tables)
        self.k = Linear(site, inner, streams * site.dim, bias=False)
        self.v = Linear(site, inner, site.dim, bias=False)
        self.scale = score_scale(site, None, site.dim, grows=True)
        own = site.resized(site.dim, streams)
        self.stream_norm, self.k_norm, self.convolution_norm = norm(own), norm(own), norm(own)
        self.convolution = nn.Parameter(torch.zeros(streams * site.dim, kernel))
        self.reach = longest - 1 + (kernel - 1) * longest

    def constants(self) -> Mapping[str, float]:
        return {"convolution": 0.0}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        rows, each = self.table.weight.shape
        width = None if self.grows else Fixed(self.k.in_features)
        return {
            "table.weight": (Fixed(rows), None if self.grows else Fixed(each)),
            "k.weight": (None, width),
            "v.weight": (None, width),
            "convolution": (None, Fixed(self.convolution.shape[1])),
        }

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        rows_of(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        rows, state = rows_of(context), context.state("lookup", RecurrentState)
        streams = rows.arrange(x).view(*x.shape[:2], self.streams, self.dim)  # (B, T, N, D)
        vectors = self.table(self._rows(context, rows)).flatten(-2)  # (B, T, width)
        keys = self.k_norm(self.k(vectors).view(*x.shape[:2], self.streams, self.dim))
        score = (keys * self.stream_norm(streams)).sum(-1, keepdim=True) * self.scale  # (B, T, N, 1)
        gates = torch.sigmoid(score.abs().clamp(min=1e-6).sqrt() * score.sign())
        values = gates * self.v(vectors)[..., None, :]
        normed = self.convolution_norm(values).flatten(-2)
        beside = F.silu(short_convolution(normed, self.convolution, rows, state, dilation=self.longest))
        self.record(found=rows.restore(vectors), gates=rows.restore(gates.squeeze(-1)))
        return rows.restore((values + beside.view_as(values)).to(x.dtype).view(x.shape))

    def _rows(self, context: Context, rows: Rows) -> Tensor:
        """(B, T, tables) int: the rows of the table for the n-grams that end with each token, in the order of rows."""
        ids, beyond = rows.arrange(context.token_ids("lookup ngram").long()), self.boundary or 0
        before, state = self.longest - 1, context.state("lookup_tokens", RecurrentState)
        earlier = None if state is None else state.recent
        if earlier is None:
            earlier = ids.new_full((ids.shape[0], before, 1), beyond)
        known = torch.cat([earlier[..., 0], ids], dim=1)  # (B, before + T)
        if state is not None:
            state.recent = last_values(known[..., None], before, rows.lengths)
        found = [ids]
        for lag in range(1, self.longest):
            lagged = known[:, before - lag : known.shape[1] - lag]
            if rows.documents is not None:
                same = rows.documents == F.pad(rows.documents, (lag, 0), value=-1)[:, : ids.shape[1]]
                lagged = torch.where(same, lagged, beyond)
            if self.boundary is not None and lag > 1:
                lagged = torch.where(found[-1] == self.boundary, beyond, lagged)
            found.append(lagged)
        begins = torch.tensor(self.begins, device=ids.device)
        return hashed(found, self.multipliers, self.sizes) + begins

    @property
    def cached_per_sequence(self) -> int:
        kernel = self.convolution.shape[1]
        return self.longest - 1 + (kernel - 1) * self.longest * self.streams * self.dim
