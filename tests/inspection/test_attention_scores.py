"""Attention scores and entropies against sums written out for each query."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from blockformer.inspection.activation_statistics import score_and_entropy
from blocks.attention.scoring import Scoring
from blocks.attention.visibility import Visibility
from blocks.base import DistanceBias

B, H, G, T, K = 2, 4, 2, 5, 3
BIAS = DistanceBias(torch.linspace(-2, 3, H * (2 * T - 1)).view(1, H, 2 * T - 1))
CPU = torch.device("cpu")
CAUSAL = Visibility(T, T, CPU, causal=True)
SINKS = torch.tensor([-1.0, 0.0, 2.0, 5.0])


def by_hand(q: Tensor, k: Tensor, allowed: Tensor, options: dict[str, Any]) -> tuple[float, float]:
    largest, entropies, possible = 0.0, 0.0, 0.0
    for b in range(B):
        for h in range(H):
            for t in range(T):
                keys = [s for s in range(T) if allowed[t, s]]
                scores = [float(q[b, h, t] @ k[b, h // (H // G), s]) * options["scale"] for s in keys]
                if cap := options.get("softcap"):
                    scores = [cap * math.tanh(score / cap) for score in scores]
                largest = max(largest, *map(abs, scores))
                if "bias" in options:
                    scores = [
                        score + float(BIAS.values[0, h, T - 1 - t + s]) for score, s in zip(scores, keys, strict=True)
                    ]
                if "sinks" in options:
                    scores.append(float(SINKS[h]))
                total = sum(map(math.exp, scores))
                weights = [math.exp(score) / total for score in scores]
                entropies -= sum(weight * math.log(weight) for weight in weights)
                possible += math.log(len(weights))
    return largest, entropies / possible


@pytest.mark.parametrize("visible", [CAUSAL, Visibility(T, T, CPU), Visibility(T, T, CPU, causal=True, window=3)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"softcap": 1.5},
        {"sinks": SINKS},
        {"bias": BIAS},
        {"softcap": 1.5, "sinks": SINKS, "bias": BIAS},
    ],
    ids=lambda options: "+".join(options) or "plain",
)
def test_every_option_of_the_scores_counts(options: dict[str, Any], visible: Visibility) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(B, H, T, K, generator=generator), torch.randn(B, G, T, K, generator=generator)
    options = {"scale": 1.7, **options}
    mask = visible.mask()
    allowed = torch.ones(T, T, dtype=torch.bool) if mask is None else mask[0, 0]
    found = score_and_entropy(q, k, visible, Scoring(**options))
    assert found == pytest.approx(by_hand(q, k, allowed, options), rel=1e-5)


def test_dropout_changes_nothing() -> None:
    q, k = torch.randn(B, H, T, K), torch.randn(B, G, T, K)
    plain, dropped = (score_and_entropy(q, k, CAUSAL, Scoring(1.0, share)) for share in (0.0, 0.5))
    assert plain == dropped


def test_equal_scores_have_entropy_1_with_a_sink_too() -> None:
    q, k = torch.zeros(B, H, T, K), torch.zeros(B, G, T, K)
    _, entropy = score_and_entropy(q, k, CAUSAL, Scoring(1.0, sinks=torch.zeros(H)))
    assert entropy == pytest.approx(1.0, abs=1e-5)
