"""Linear attention."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from blocks.base import Axis, Context, Heads, KeyHeads, Linear, Mixer, Site, described
from blocks.base.precision import at_least_float32, without_autocast
from blocks.recurrent.additive import additive_rule, additive_rule_flops
from blocks.recurrent.base import RecurrentState, Rows, rows_of
from blocks.recurrent.state_steps import RECURRENT, state_by
from registry import Capabilities, Positive, PositiveFloat, register


@register("linear")
class LinearAttention(Mixer):
    """Attention with a kernel instead of the softmax: f(q) sum_s f(k_s) v_s^T / (f(q) sum_s f(k_s)).

    Sums are over tokens up to the query at a causal site, else over all tokens. The cost is linear in the sequence
    length, and the state has a fixed size.

    Args:
        heads: number of heads.
        head_dim: width of each head; null: dim / heads.
        feature: feature map f: elu(x) + 1 (elu, the paper) or relu(x) (relu).
        bias: use biases in all projections.
        eps: added to the divisor, which can be 0.
    """

    paper = "Katharopoulos et al., 2020, arXiv:2006.16236"
    formula = "y_t = out((f(q_t)^T sum_(s<=t) f(k_s) v_s^T) / (f(q_t)^T sum_(s<=t) f(k_s)))"
    outputs = ("out",)
    intermediates = described(
        **{
            **RECURRENT,
            "q": replace(RECURRENT["q"], formula="q_t = f(W_q x_t); f(x) = {feature_map}"),
            "k": replace(RECURRENT["k"], formula="k_t = f(W_k x_t); f(x) = {feature_map}"),
            "read": replace(
                RECURRENT["read"],
                formula="y_t = n_t / (d_t + {eps}); (n_t, d_t) = q_t^T sum_{seen} k_s (v_s, 1)^T",
            ),
        },
        memory=state_by("M_t = M_(t-1) + k_t (v_t, 1)^T"),
    )
    capabilities = Capabilities(
        places=frozenset({"causal", "bidirectional"}),
        prefix=False,
        shards={"q": "columns", "k": "columns", "v": "columns", "out": "rows"},
    )

    def __init__(
        self,
        site: Site,
        *,
        heads: Positive = 8,
        head_dim: Positive | None = None,
        feature: Literal["elu", "relu"] = "elu",
        bias: bool = False,
        eps: PositiveFloat = 1e-6,
    ) -> None:
        super().__init__(site)
        self.heads, self.head_dim = heads, head_dim or site.head_dim(heads)
        self.causal, self.feature, self.eps = site.causal, feature, eps
        inner = heads * self.head_dim
        self.q = Linear(site, site.dim, inner, bias=bias)
        self.k = Linear(site, site.dim, inner, bias=bias)
        self.v = Linear(site, site.dim, inner, bias=bias)
        self.out = Linear(site, inner, site.dim, bias=bias)

    @property
    def feature_map(self) -> str:
        """The formula of the feature map."""
        return "max(x, 0)" if self.feature == "relu" else "max(x, 0) + exp(min(x, 0))"

    @property
    def seen(self) -> str:
        """Over which tokens s sums are taken, in formulas."""
        return "(s<=t)" if self.causal else "s"

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        heads = Heads(self.heads, self.head_dim, keys=self.heads)
        keys = KeyHeads(self.heads, self.head_dim, queries=self.heads)
        reads = {"q": heads, "k": keys, "v": keys}
        weights = {f"{name}.weight": (axis, None) for name, axis in reads.items()}
        biases = {f"{name}.bias": (axis,) for name, axis in reads.items()}
        return {**weights, **biases, "out.weight": (None, replace(heads, zero_new=True))}

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        rows_of(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        rows, state = rows_of(context), context.state("mixer", RecurrentState)
        q, k, v = (at_least_float32(rows.arrange(y)) for y in (self.q(x), self.k(x), self.v(x)))
        q, k, v = (
            self._heads(self._featured(q)),
            self._heads(self._featured(k)),
            self._heads(v),
        )  # of this process's heads
        tokens = rows.tokens(x.shape[1])
        if tokens is not None:
            k = k * tokens[:, None, :, None]
        with without_autocast(x):
            y = self._read(q, k, F.pad(v, (0, 1), value=1.0), rows, state)  # a further value of 1, to sum the weights
        y = y[..., :-1] / (y[..., -1:] + self.eps)
        self.record(q=q, k=k, v=v, read=y)
        return self.out(rows.restore(y.transpose(1, 2).flatten(2)).to(x.dtype))

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], x.shape[-1] // self.head_dim, self.head_dim).transpose(1, 2)  # (B, H, T, K)

    def _featured(self, x: Tensor) -> Tensor:
        positive = x.clamp(min=0.0)
        return positive if self.feature == "relu" else positive + x.clamp(max=0.0).exp()

    def _read(self, q: Tensor, k: Tensor, v: Tensor, rows: Rows, state: RecurrentState | None) -> Tensor:
        """Numerator and, as last channel, divisor of each token, (B, H, T, K + 1)."""
        if not self.causal:
            return _bidirectional(q, k, v, rows.documents)
        y, memory = additive_rule(q, k, v, rows.documents, None if state is None else state.memory)
        if state is not None:
            state.memory = memory
        return y

    def flops_per_token(self, length: int) -> float:
        width = self.head_dim
        read = additive_rule_flops(length, width, width + 1) if self.causal else 4 * width * (width + 1)
        return super().flops_per_token(length) + self.heads * read

    @property
    def cached_per_sequence(self) -> int:
        return self.heads * self.head_dim * (self.head_dim + 1)


def _bidirectional(q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None) -> Tensor:
    """Sum over all tokens of each token's document: those up to it, and those after it."""
    if documents is None:
        return q @ (k.transpose(-2, -1) @ v)
    before, _ = additive_rule(q, k, v, documents)
    after, _ = additive_rule(q.flip(2), k.flip(2), v.flip(2), documents.flip(1), itself=False)
    return before + after.flip(2)
