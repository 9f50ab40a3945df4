"""Activation statistics and `blockformer show --activations`."""

import json
import math
from typing import Any

import pytest
import torch

import blockformer as bf
import registry
from blockformer.cli.main import main
from blockformer.inspection import memory
from blockformer.inspection.activation_statistics import ActivationStatistics, activation_statistics
from blockformer.inspection.findings import findings

SMALL = [name for name in registry.builtin_recipes() if name.startswith(("tiny_", "demo_"))]
NO_NORM = {"decoder.depth": 48, "decoder.layer.residual.norm": "none", "decoder.norm": None}
SMALLER = {"dim": 96, "vocab_size": 500, "decoder.depth": 4, "decoder.layers.local.mixer.head_dim": 32}
POST = {"decoder.depth": 24, "decoder.norm": None}


def at_step_0(name: str, overrides: dict[str, Any] | None = None) -> ActivationStatistics:
    return activation_statistics(registry.load_recipe(name, overrides or {}), seed=0, batch=2, length=16)


@pytest.mark.parametrize("name", SMALL)
def test_a_recipe_that_trains_has_nothing_unusual(name: str) -> None:
    assert not findings(at_step_0(name))


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("gpt2", {"dim": 96, "vocab_size": 500}),
        ("bert_base", {"dim": 96, "vocab_size": 500}),
        ("transformer", {"dim": 96, "vocab_size": 500}),
        ("tiny_decoder", POST | {"decoder.layer.residual": "deepnorm"}),
        ("tiny_decoder", POST | {"decoder.layer.residual": "post"}),
        ("tiny_decoder", {"decoder.depth": 48}),
        (
            "gemma2_2b",
            SMALLER | {"decoder.layers.local.feedforward.hidden": 128, "decoder.layers.local.mixer.scale": 8.0},
        ),
        ("gpt_oss_20b", SMALLER | {"decoder.layers.local.feedforward.expert.hidden": 64}),
        ("deepseek_v2_lite", {"dim": 96, "vocab_size": 500, "decoder.depth": 2}),
    ],
)
def test_well_known_models_have_nothing_unusual(name: str, overrides: dict[str, Any]) -> None:
    assert not findings(at_step_0(name, overrides))


def test_the_distance_bias_of_alibi_is_no_large_score() -> None:
    recipe = registry.load_recipe("bloom_560m", {"dim": 96, "vocab_size": 500, "decoder.depth": 2})
    assert not findings(activation_statistics(recipe, seed=0, batch=1, length=256))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (NO_NORM | {"init": "xavier"}, "the activations explode"),
        ({"init": {"type": "normal", "std": 1.0}}, "far above 5.56 of a uniform prediction"),
        ({"init": {"type": "normal", "std": 1.0}}, "saturate the softmax"),
        ({"decoder.layer.residual": {"type": "scaled", "by": 0.0}}, "the output equals the input"),
        ({"decoder.layer.residual": {"type": "scaled", "by": 0.0}}, "the gradient is 0"),
        ({"decoder.layer.residual": {"type": "layerscale", "initial": 0.0}}, "the output equals the input"),
    ],
)
def test_a_recipe_that_will_not_train_is_reported(overrides: dict[str, Any], words: str) -> None:
    assert any(words in line for line in findings(at_step_0("tiny_decoder", overrides)))


def test_activations_that_explode_without_overflow_are_reported() -> None:
    overrides = NO_NORM | {"decoder.depth": 12, "init": {"type": "normal", "std": 0.2}}
    statistics = at_step_0("tiny_decoder", overrides)
    assert all(layer.finite for layer in statistics.layers[:6])
    assert any("explode" in line for line in findings(statistics))


def test_the_figures_are_those_of_the_model() -> None:
    statistics = at_step_0("tiny_decoder")
    model = bf.build("tiny_decoder").eval()
    generator = torch.Generator().manual_seed(0)
    targets, tokens = (torch.randint(model.vocab_size, (2, 16), generator=generator) for _ in range(2))
    seen: list[torch.Tensor] = []
    for layer in model.decoder.layers:  # type: ignore[attr-defined]
        layer.register_forward_hook(lambda _, given, out: seen.extend((given[0], out)))
    logits = model(tokens)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    assert statistics.logits == pytest.approx(logits.std().item())
    assert statistics.uniform == math.log(model.vocab_size)
    for index, layer in enumerate(statistics.layers):
        before, after = seen[2 * index : 2 * index + 2]
        assert layer.input_rms == pytest.approx(before.norm().item() / math.sqrt(before.numel()))
        assert layer.largest == pytest.approx(after.abs().max().item())
        gradients = [p.grad.norm() for p in model.decoder.layers[index].parameters()]  # type: ignore[attr-defined]
        assert layer.gradient == pytest.approx(torch.stack(gradients).norm().item())


def test_equal_attention_weights_have_entropy_1() -> None:
    statistics = at_step_0("tiny_encoder", {"encoder.layer.mixer.scale": 0.0})
    assert [layer.entropy for layer in statistics.layers] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert [layer.score for layer in statistics.layers] == [0.0, 0.0]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_and_another_another(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*arguments: str) -> str:
        assert main(["show", "tiny_encoder_decoder", "--activations", "--length", "8", *arguments]) == 0
        return capsys.readouterr().out

    assert printed() == printed("--seed", "0") != printed("--seed", "1")
    assert "nothing unusual" in printed()
    assert "cross" in printed()


@pytest.mark.slow
def test_json_has_the_layers_and_the_findings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "tiny_hybrid", "--activations", "--format", "json"]) == 0
    statistics = json.loads(capsys.readouterr().out)["activations"]
    assert [layer["name"] for layer in statistics["layers"]] == ["memory", "memory", "memory", "attention"]
    assert [layer["score"] is None for layer in statistics["layers"]] == [True, True, True, False]
    assert statistics["unusual"] == []


def test_a_model_larger_than_the_free_memory_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 2**20)
    assert main(["show", "gpt2", "--activations", "--set", "decoder.depth=1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "0.0 GiB are free: make it smaller" in line
