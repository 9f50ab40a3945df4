"""`blockformer show --scales`."""

import json
import math
from typing import Any

import pytest
import torch

import blockformer as bf
import registry
from blockformer.cli.main import main
from blockformer.inspection import memory_check as room
from blockformer.inspection.activation_statistics import Scales, scales
from blockformer.inspection.findings import findings

SMALL = [name for name in registry.builtin_recipes() if name.startswith(("tiny_", "demo_"))]
NO_NORM = {"decoder.depth": 48, "decoder.layer.residual.norm": "none", "decoder.norm": None}
SMALLER = {"dim": 96, "vocab_size": 500, "decoder.depth": 4, "decoder.layers.local.mixer.head_dim": 32}
POST = {"decoder.depth": 24, "decoder.norm": None}


def at_step_0(name: str, overrides: dict[str, Any] | None = None) -> Scales:
    return scales(registry.load_recipe(name, overrides or {}), seed=0, batch=2, length=16)


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
def test_nor_have_the_well_known_ones(name: str, overrides: dict[str, Any]) -> None:
    assert not findings(at_step_0(name, overrides))


def test_the_distance_bias_of_alibi_is_no_large_score() -> None:
    recipe = registry.load_recipe("bloom_560m", {"dim": 96, "vocab_size": 500, "decoder.depth": 2})
    assert not findings(scales(recipe, seed=0, batch=1, length=256))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (NO_NORM | {"init": "xavier"}, "the stream explodes"),
        ({"init": {"type": "normal", "std": 1.0}}, "far above 5.56 of a uniform guess"),
        ({"init": {"type": "normal", "std": 1.0}}, "leave the softmax no gradient"),
        ({"decoder.layer.residual": {"type": "scaled", "by": 0.0}}, "nothing is added to the stream"),
        ({"decoder.layer.residual": {"type": "scaled", "by": 0.0}}, "the gradient is 0"),
        ({"decoder.layer.residual": {"type": "layerscale", "initial": 0.0}}, "they are the identity at first"),
    ],
)
def test_a_recipe_that_will_not_train_is_seen(overrides: dict[str, Any], words: str) -> None:
    assert any(words in line for line in findings(at_step_0("tiny_decoder", overrides)))


def test_a_stream_that_explodes_without_overflow_is_seen() -> None:
    overrides = NO_NORM | {"decoder.depth": 12, "init": {"type": "normal", "std": 0.2}}
    told = at_step_0("tiny_decoder", overrides)
    assert all(scale.finite for scale in told.layers[:6])
    assert any("explodes" in line for line in findings(told))


def test_the_figures_are_those_of_the_model() -> None:
    told = at_step_0("tiny_decoder")
    model = bf.build("tiny_decoder").eval()
    generator = torch.Generator().manual_seed(0)
    targets, tokens = (torch.randint(model.vocab_size, (2, 16), generator=generator) for _ in range(2))
    seen: list[torch.Tensor] = []
    for layer in model.decoder.layers:  # type: ignore[attr-defined]
        layer.register_forward_hook(lambda _, given, out: seen.extend((given[0], out)))
    logits = model(tokens)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    assert told.logits == pytest.approx(logits.std().item())
    assert told.uniform == math.log(model.vocab_size)
    for index, scale in enumerate(told.layers):
        before, after = seen[2 * index : 2 * index + 2]
        assert scale.stream == pytest.approx(before.norm().item() / math.sqrt(before.numel()))
        assert scale.largest == pytest.approx(after.abs().max().item())
        gradients = [p.grad.norm() for p in model.decoder.layers[index].parameters()]  # type: ignore[attr-defined]
        assert scale.gradient == pytest.approx(torch.stack(gradients).norm().item())


def test_attention_that_looks_everywhere_alike_has_entropy_1() -> None:
    told = at_step_0("tiny_encoder", {"encoder.layer.mixer.scale": 0.0})
    assert [scale.entropy for scale in told.layers] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert [scale.score for scale in told.layers] == [0.0, 0.0]


def test_the_same_seed_gives_the_same_and_another_another(capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert main(["show", "tiny_encoder_decoder", "--scales", "--length", "8", *arguments]) == 0
        return capsys.readouterr().out

    assert said() == said("--seed", "0") != said("--seed", "1")
    assert "nothing unusual" in said()
    assert "cross" in said()


def test_json_has_the_layers_and_what_is_unusual(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "tiny_hybrid", "--scales", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)["scales"]
    assert [layer["name"] for layer in told["layers"]] == ["memory", "memory", "memory", "attention"]
    assert [layer["score"] is None for layer in told["layers"]] == [True, True, True, False]
    assert told["unusual"] == []


def test_what_does_not_fit_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "free_memory", lambda: 2**20)
    assert main(["show", "gpt2", "--scales", "--set", "decoder.depth=1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "0.0 GiB are free: make it smaller" in line
