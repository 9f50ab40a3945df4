"""Attention maps against weights written out for each query."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import blockformer as bf
from blockformer.training.watch.attention import attending, map_of, mixers_without_weights, observed
from blocks.attention.scoring import Scoring
from blocks.attention.visibility import Visibility
from blocks.base import DistanceBias

B, H, G, T, K, MOST = 2, 4, 2, 6, 3, 4
PADDED = torch.ones(B, T, dtype=torch.bool)
PADDED[1, -2:] = False
BIAS = DistanceBias(torch.linspace(-2, 3, H * (2 * T - 1)).view(1, H, 2 * T - 1))
CPU = torch.device("cpu")
SINKS = torch.tensor([-1.0, 0.0, 2.0, 5.0])


@pytest.mark.parametrize(
    "visible",
    [
        Visibility(T, T, CPU, causal=True),
        Visibility(T, T, CPU),
        Visibility(T, T, CPU, causal=True, window=2),
        Visibility(T, T, CPU, padding=PADDED),
    ],
    ids=["causal", "all", "window", "padding"],
)
@pytest.mark.parametrize("options", [{}, {"sinks": SINKS, "bias": BIAS, "softcap": 1.5}], ids=["plain", "options"])
def test_a_map_has_the_weights_of_the_first_queries_and_keys(visible: Visibility, options: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(B, H, T, K, generator=generator), torch.randn(B, G, T, K, generator=generator)
    found = map_of(q, k, visible, Scoring(0.7, 0.5, **options), MOST)
    assert found.shape == (B, H, MOST, MOST)
    mask = visible.mask()
    allowed = torch.ones(B, H, T, T, dtype=torch.bool) if mask is None else mask.expand(B, H, T, T)
    for b in range(B):
        for h in range(H):
            for t in range(MOST):
                keys = [s for s in range(T) if allowed[b, h, t, s]]
                scores = {s: 0.7 * float(q[b, h, t] @ k[b, h // (H // G), s]) for s in keys}
                if options:
                    bias = BIAS.scores(T)[0, h, t]
                    scores = {s: 1.5 * math.tanh(one / 1.5) + float(bias[s]) for s, one in scores.items()}
                total = sum(map(math.exp, scores.values())) + (math.exp(float(SINKS[h])) if options else 0.0)
                wanted = [math.exp(scores[s]) / total if s in scores else math.nan for s in range(MOST)]
                assert found[b, h, t].tolist() == pytest.approx(wanted, rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("recipe", ["tiny_decoder", "tiny_encoder", "tiny_encoder_decoder", "tiny_local_global"])
def test_each_softmax_attention_shows_what_it_computes_and_goes_on_as_before(recipe: str) -> None:
    model = bf.build(recipe).eval()
    tokens = torch.randint(200, (2, 10))
    given = (tokens, tokens) if model.kind == "encoder_decoder" else (tokens,)
    before = model(*given)
    seen: dict[str, Tensor] = {}

    def noted(path: str) -> Any:
        def observe(*options: Any) -> None:
            seen[path] = map_of(*options, 10)

        return observe

    with observed((part, noted(path)) for path, part in attending(model).items()):
        assert torch.equal(model(*given), before)
    assert torch.equal(model(*given), before)
    assert list(seen) == list(attending(model))
    assert mixers_without_weights(model) == {}
    for weights in seen.values():
        torch.testing.assert_close(weights.nan_to_num().sum(-1), torch.ones(weights.shape[:-1]))


def test_the_window_of_a_layer_shows_in_its_map() -> None:
    model = bf.build("tiny_local_global").eval()
    window = model.get_submodule("decoder.layers.0.mixer").window
    maps: list[Tensor] = []
    module = model.get_submodule("decoder.layers.0.mixer")
    with observed([(module, lambda *options: maps.append(map_of(*options, 64)))]):
        model(torch.randint(200, (1, 20)))
    queries, keys = torch.meshgrid(torch.arange(20), torch.arange(20), indexing="ij")
    seen = (keys <= queries) & (queries - keys < window)
    assert torch.equal(~maps[0].isnan(), seen.expand_as(maps[0]))


def test_recurrent_mixers_have_no_weights() -> None:
    model = bf.build("tiny_hybrid")
    without = mixers_without_weights(model)
    assert without
    assert not set(without) & set(attending(model))
    assert len(without) + len(attending(model)) == 4
