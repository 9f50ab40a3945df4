"""The steps from queries and keys to attention weights, recorded one by one where there is a listener."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from blocks.attention.eager import attention_weights
from blocks.attention.scoring import Scoring, repeat_heads
from blocks.attention.visibility import Visibility
from blocks.base import Component, Intermediate

HEADS, KEYS, SCORES = ("head", "token", "channel"), ("kv_head", "key", "channel"), ("head", "token", "key")

PROJECTED: Mapping[str, Intermediate] = {
    "q": Intermediate(
        "The query of each token: what it looks for in other tokens.", HEADS, "Q = X W_Q{q:+ b_Q}", ("input",)
    ),
    "k": Intermediate("The key of each token: what it is found by.", KEYS, "K = X W_K{k:+ b_K}", ("input",)),
    "v": Intermediate(
        "The value of each token: what it gives to those that attend to it.", KEYS, "V = X W_V{v:+ b_V}", ("input",)
    ),
    "placed_q": Intermediate(
        "The queries as the scores use them, with the norm, clipping and positions that this model has.",
        HEADS,
        "Q' = {placed_q}",
        ("q",),
    ),
    "placed_k": Intermediate(
        "The keys as the scores use them, with the norm, clipping and positions that this model has.",
        KEYS,
        "K' = {placed_k}",
        ("k",),
    ),
    "placed_v": Intermediate(
        "The values as they are averaged, with the norm, clipping and scaling that this model has.",
        KEYS,
        "V' = {value_scale:*}clip(v_norm(V))",
        ("v",),
    ),
}
"""Queries, keys and values of a softmax attention."""

SCORED: Mapping[str, Intermediate] = {
    "scores": Intermediate(
        "The product of each query with each key: large where the two point the same way.",
        SCORES,
        "S = Q' K'^T",
        ("placed_q", "placed_k"),
    ),
    "scaled": Intermediate(
        "The scores times a constant, so that they do not grow with the width of a head and the softmax stays soft.",
        SCORES,
        "S' = S * {scale:root}",
        ("scores",),
    ),
    "biased": Intermediate(
        "The scores plus a bias that depends on the distance between the two tokens.", SCORES, "S' + B", ("scaled",)
    ),
    "masked": Intermediate(
        "The scores of keys s that a query t may not see are minus infinity, so that their weights become 0.",
        SCORES,
        "S'_(t s) = -inf",
        ("biased",),
    ),
    "weights": Intermediate(
        "The softmax turns the scores of each query into weights between 0 and 1 that sum to 1.",
        SCORES,
        "A = softmax(S')",
        ("masked",),
    ),
    "weighted": Intermediate(
        "The mean of the values, weighted by the attention weights of each query.",
        HEADS,
        "Y = A V'",
        ("weights", "placed_v"),
    ),
    "normed": Intermediate("The outputs of the heads after their norm.", HEADS, "Y' = out_norm(Y)", ("weighted",)),
    "gated": Intermediate(
        "The outputs of the heads times their gates.", HEADS, "Y' * gate_activation(X W_gate)", ("normed",)
    ),
    "joined": Intermediate(
        "The outputs of the heads side by side, in one vector for each token.",
        ("token", "feature"),
        "(Y_1, ..., Y_{heads})",
        ("gated",),
    ),
}
"""From the scores to the output of all heads."""

PROJECTED_BACK = Intermediate(
    "The output projection mixes the heads into a vector that can be added to the stream.",
    ("token", "width"),
    "(Y_1, ..., Y_{heads}) W_O{out:+ b_O}",
    ("joined",),
)

CAPPED = Intermediate("The scores, bounded smoothly.", SCORES, "{softcap} tanh(S' / {softcap})", ("scaled",))

SOFTMAX_ATTENTION: Mapping[str, Intermediate] = {**PROJECTED, **SCORED, "output": PROJECTED_BACK}
CAPPED_ATTENTION: Mapping[str, Intermediate] = {
    **SOFTMAX_ATTENTION,
    "capped": CAPPED,
    "biased": replace(SCORED["biased"], of=("capped",)),
}
"""Of an attention that can bound its scores; its ``placed_q`` and ``placed_k`` are formulas."""
SELF_ATTENTION: Mapping[str, Intermediate] = {
    **CAPPED_ATTENTION,
    "latent": Intermediate(
        "One narrow vector for each token, with the norm that this model has, from which its query and key are made.",
        ("token", "state"),
        "C = qk_rank_norm(X W_C{qk_down:+ b_C})",
        ("input",),
    ),
    "q": replace(PROJECTED["q"], formula="Q = C W_Q{q:+ b_Q}", of=("latent",)),
    "k": replace(PROJECTED["k"], formula="K = C W_K{k:+ b_K}", of=("latent",)),
}
"""Of one whose queries and keys can come from a narrow projection of the input."""
LATENT_ATTENTION: Mapping[str, Intermediate] = {
    **SOFTMAX_ATTENTION,
    "latent": Intermediate(
        "One narrow vector for each token, from which all heads make their keys and values; it is what is cached.",
        ("token", "state"),
        "C = {kv_scale:*}kv_norm(X W_C{kv_down:+ b_C})",
        ("input",),
    ),
    "rotary_key": Intermediate(
        "The part of the keys that has positions, shared by all heads.",
        ("token", "channel"),
        "K_R = positions(rotary_norm(X W_R{k_rotary:+ b_R}))",
    ),
    "placed_q": Intermediate(
        "The queries as the scores use them, with the norm, clipping and positions that this model has.",
        HEADS,
        "Q' = (Q, positions(Q_R)); (Q, Q_R) = {q_scale:*}q_norm(q_down(X)) W_Q{q:+ b_Q}",
        ("input",),
    ),
    "placed_k": Intermediate(
        "The keys: a part from the latent, and the part with positions.",
        KEYS,
        "K' = (C W_K{k:+ b_K}, K_R)",
        ("latent", "rotary_key"),
    ),
    "v": Intermediate("The values, from the latent.", KEYS, "V = C W_V{v:+ b_V}", ("latent",)),
    "placed_v": replace(SOFTMAX_ATTENTION["placed_v"], formula="V' = V"),
}
"""Of one whose keys and values come from a narrow vector that is cached."""
CROSS_ATTENTION: Mapping[str, Intermediate] = {
    **CAPPED_ATTENTION,
    "memory": Intermediate("The encoder's output, a vector for each token of the source.", ("key", "width"), "M"),
    "q": Intermediate(
        "The query of each token: what it looks for in the source.",
        HEADS,
        "Q = clip(q_norm(X W_Q{q:+ b_Q}))",
        ("input",),
    ),
    "k": Intermediate(
        "The key of each token of the source: what it is found by.",
        KEYS,
        "K = clip(k_norm(M W_K{k:+ b_K}))",
        ("memory",),
    ),
    "v": Intermediate(
        "The value of each token of the source: what it gives.", KEYS, "V = clip(M W_V{v:+ b_V})", ("memory",)
    ),
    "placed_q": replace(PROJECTED["placed_q"], formula="Q' = Q"),
    "placed_k": replace(PROJECTED["placed_k"], formula="K' = K"),
    "placed_v": replace(PROJECTED["placed_v"], formula="V' = V"),
}
"""Of a decoder's attention to the encoder's output."""


def record_scores(block: Component, q: Tensor, k: Tensor, visible: Visibility, scoring: Scoring) -> None:
    """Compute the scores and weights of an attention step by step, as the reference backend does, and record each.

    Args:
        block: the attention, with the intermediates of ``SCORED``.
        q: queries (B, H, T, K), as the backend gets them.
        k: keys (B, G, S, K).
        visible: what the queries see.
        scoring: the options of the scores.
    """
    if not block.recording:
        return
    with torch.no_grad():
        mask = visible.mask()
        scores = q @ repeat_heads(k, q.shape[1]).transpose(-2, -1)
        block.record(scores=scores)
        scores = scores * scoring.scale
        block.record(scaled=scores)
        if scoring.softcap is not None:
            scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
            block.record(capped=scores)
        if scoring.bias is not None:
            scores = scores + scoring.bias.scores(k.shape[2]).to(scores.dtype)
            block.record(biased=scores)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
            block.record(masked=scores)
        block.record(weights=attention_weights(q, k, mask, scoring))
