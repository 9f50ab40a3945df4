"""The lightning indexer of DeepSeek's sparse attention."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import ClassVar, Literal

import torch
from torch import Tensor

from blocks.attention.key_selector import (
    Choice,
    KeySelector,
    choice_of,
    highest,
    mean_weights,
    parts_of_queries,
)
from blocks.attention.projection import HeadProjection, projection_axes
from blocks.attention.scoring import Scoring
from blocks.attention.visibility import Visibility
from blocks.base import (
    AttentionPositions,
    Axis,
    Context,
    Factory,
    Fixed,
    Heads,
    Intermediate,
    KeyValues,
    Linear,
    Norm,
    Recorded,
    Site,
)
from blocks.base.precision import without_autocast
from blocks.norms.layer import LayerNorm
from blocks.positions.rotary import RotaryPositions
from registry import Capabilities, NonNegativeFloat, Positive, register

INDEX: Mapping[str, Intermediate] = {
    "index_q": Intermediate(
        "The queries of the index: what each token looks for.", ("head", "token", "channel"), "Q_I", ("input",)
    ),
    "index_k": Intermediate(
        "The keys of the index, shared by its heads: what each token is found by.",
        ("key", "channel"),
        "K_I",
        ("input",),
    ),
    "head_weights": Intermediate(
        "How much each head of the index counts for a token.", ("token", "head"), "W = X W_W", ("input",)
    ),
    "index_scores": Intermediate(
        "The index: how well each key fits each query, by the heads that match.",
        ("token", "key"),
        "I_(t s) = sum_h W_(t h) relu(Q_h K_I^T)_(t s)",
        ("index_q", "index_k", "head_weights"),
    ),
    "chosen_keys": Intermediate(
        "The keys that a query attends to are those with the highest scores in the index.",
        ("token", "key"),
        "top_({keep}) I",
        ("index_scores",),
    ),
}


@register("indexer")
class Indexer(KeySelector):
    """Choose the keys with the highest scores in an index: those of narrow heads that share one key head.

    A query that sees at most ``keep`` keys attends to all of them. In training the index learns from the attention: its
    loss is the divergence of the softmax of its scores from the mean of the heads' attention weights. The inputs get no
    gradient of it. The paper trains in two stages: first with attention to all keys, which is a ``keep`` of
    ``max_length``, then with ``loss_over: chosen``. The choice is a mask of all scores: the model is sparse, and the
    time that attention takes is that of a dense one.

    Args:
        heads: number of heads of the index.
        head_dim: width of each; null: dim / heads.
        keep: number of keys that a query attends to, 2048 in the paper; null: an eighth of ``max_length``, rounded up.
        rotary_dim: width of the part of queries and keys with positions; null: half of ``head_dim``, rounded up to an
            even number.
        rotary_at: whether the first or the last channels have positions.
        positions: positions applied to that part.
        norm: norm of the keys.
        ties: of keys with equal scores, which are common with few heads, choose the last, or any, as PyTorch's top-k
            does; then the choice can depend on padding and on the cache.
        index_loss: factor on the loss; 0: disabled, so that its parameters stay as they are.
        loss_over: keys over which the loss compares the two: all that a query sees (visible), or those that it attends
            to (chosen).
    """

    paper = "DeepSeek-AI, 2025, arXiv:2512.02556, section 2.1"
    formula = (
        "I_(t s) = sum_h w_h(x_t) relu(scale * q_h(c_t)^T k(x_s)); "
        'chosen(t) = top_k(I_t); loss = "KL"(p_t || softmax(I_t))'
    )
    intermediates = INDEX
    expected_failures: ClassVar[Mapping[str, str]] = {
        "every_stored_setting_has_an_effect": "with eight heads no keys have equal scores, so that ties has none",
        **dict.fromkeys(
            (
                "key_selector/indexer/bidirectional[heads=1]: token_order_matters_only_if_declared",
                "key_selector/indexer/bidirectional[heads=2]: token_order_matters_only_if_declared",
            ),
            "keys that match no head have equal scores, of which the last are chosen",
        ),
    }
    capabilities = Capabilities(places=frozenset({"causal", "bidirectional"}), positions=frozenset({"rotation"}))

    def __init__(
        self,
        site: Site,
        query_dim: int,
        *,
        heads: Positive = 8,
        head_dim: Positive | None = None,
        keep: Positive | None = None,
        rotary_dim: Positive | None = None,
        rotary_at: Literal["first", "last"] = "first",
        positions: Factory[AttentionPositions] = RotaryPositions,
        norm: Factory[Norm] = LayerNorm,
        ties: Literal["last", "any"] = "last",
        index_loss: NonNegativeFloat = 1.0,
        loss_over: Literal["visible", "chosen"] = "visible",
    ) -> None:
        super().__init__(site)
        self.layer = site.layer
        self.heads, self.head_dim = heads, head_dim or site.head_dim(heads)
        self.keep = keep or -(-site.max_length // 8)
        width = 2 * -(-self.head_dim // 4) if rotary_dim is None else rotary_dim
        if width > self.head_dim:
            raise ValueError(f"rotary_dim={width} is more than head_dim={self.head_dim}")
        rest = self.head_dim - width
        self.parts = [width, rest] if rotary_at == "first" or not rest else [rest, width]
        self.place = 0 if rotary_at == "first" or not rest else 1
        self.scale = (heads * self.head_dim) ** -0.5
        self.positions = positions(site.resized(width, heads))
        self.q = HeadProjection(site, query_dim, heads, self.head_dim, bias=False)
        self.k = HeadProjection(site, site.dim, 1, self.head_dim, bias=False)
        self.k_norm = norm(site.resized(self.head_dim))
        self.weights = Linear(site, site.dim, heads, bias=False)
        self.last = ties == "last"
        self.index_loss, self.over_chosen = index_loss, loss_over == "chosen"
        self.learns = index_loss > 0
        self.losses, self.counted = Recorded[Tensor]("mixer"), None
        if not self.learns:
            self.requires_grad_(False)

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        heads = Heads(self.heads, self.head_dim, keys=self.heads)
        return {**projection_axes(("q",), heads), "k.weight": (None, None), "weights.weight": (Fixed(self.heads), None)}

    def prepare(self, context: Context) -> None:
        self.positions.prepare(context)
        if self.learns and self.training:
            self.losses.begin()
            mask = context.attention_mask
            self.counted = None if mask is None else mask[:, mask.shape[1] - context.length :]

    def forward(
        self, x: Tensor, queries: Tensor, visible: Visibility, context: Context, window: int | None = None
    ) -> Choice:
        choice = self._choose(x, queries, visible, context, window)
        context.shared[choice_of(context, self.layer)] = choice.keys
        return choice

    def _choose(self, x: Tensor, queries: Tensor, visible: Visibility, context: Context, window: int | None) -> Choice:
        learning = self.learns and self.training
        with nullcontext() if learning else torch.no_grad():
            k = self._placed(self.k_norm(self.k(x.detach())), context)  # (B, 1, T, K)
            state = context.state("index", lambda: KeyValues(context.cached_window(window)))
            if state is not None:
                k, _ = state.append(k, k[..., :0])  # (B, 1, S, K), with those of earlier tokens
            if visible.keys <= self.keep and not learning and not self.recording:
                return Choice()
            q, weights = self._placed(self.q(queries.detach()), context), self.weights(x.detach())
            self.record(index_q=q, index_k=k[:, 0], head_weights=weights)
            weights = weights.transpose(1, 2)[..., None] * self.scale  # (B, H, T, 1)
            scores = index_scores(q, k, weights) if learning or self.recording else None
            if visible.keys <= self.keep:
                return Choice(scores=scores)
            chosen: list[Tensor] = []
            for first, last, mask in parts_of_queries(visible, q.shape[0] * self.heads):
                at = slice(first, last)
                part = index_scores(q[:, :, at], k, weights[:, :, at]) if scores is None else scores[:, at]
                part = part.detach()[:, None]
                part = part if mask is None else part.masked_fill(~mask, -torch.inf)
                keys = highest(part, self.keep, last=self.last)
                chosen.append(keys if mask is None else keys & mask)
            keys = torch.cat(chosen, dim=2)
        if scores is not None:
            self.record(index_scores=scores, chosen_keys=keys[:, 0].to(scores.dtype))
        return Choice(keys, scores if learning else None)

    def _placed(self, x: Tensor, context: Context) -> Tensor:
        """(B, H, T, K) with positions on a part of the channels."""
        parts = list(torch.split(x, self.parts, dim=-1))
        parts[self.place] = self.positions.rotate(parts[self.place], context)
        return torch.cat(parts, dim=-1)

    def learn(self, choice: Choice, q: Tensor, k: Tensor, visible: Visibility, scoring: Scoring) -> None:
        if choice.scores is None:
            return
        seen = visible.among(choice.keys) if self.over_chosen else visible
        target, mask, scores = mean_weights(q, k, seen, scoring), seen.mask(), choice.scores
        if mask is not None:
            scores = scores.masked_fill(~mask[:, 0], torch.finfo(scores.dtype).min)
        divergence = (torch.xlogy(target, target) - target * scores.log_softmax(-1)).sum(-1)  # (B, T)
        if self.counted is None:
            self.losses.add(self.index_loss * divergence.sum() / max(divergence.numel(), 1))
        else:
            self.losses.add(self.index_loss * (divergence * self.counted).sum() / self.counted.sum().clamp(min=1))

    def auxiliary_loss(self, reduce: Callable[[Tensor], Tensor]) -> Tensor | None:
        losses = self.losses.take() if self.learns and self.training else []
        return torch.stack(losses).sum() if losses else None

    def flops_per_token(self, length: int) -> float:
        return super().flops_per_token(length) + 2 * self.heads * self.head_dim * length

    @property
    def cached_per_token(self) -> int:
        return self.head_dim


def index_scores(q: Tensor, k: Tensor, weights: Tensor) -> Tensor:
    """(B, T, S) in float32 or wider, because rounding to 16 bits would change the choice.

    Args:
        q: (B, H, T, K).
        k: (B, 1, S, K).
        weights: (B, H, T, 1).
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    with without_autocast(q):
        products = q.to(dtype) @ k.to(dtype).transpose(-2, -1)
        return (products.relu() * weights.to(dtype)).sum(1)
