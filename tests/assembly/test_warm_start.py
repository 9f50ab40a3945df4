"""Warm starts: what stays the same function, and that every parameter is accounted for."""

from typing import Any

import pytest
import torch
from torch import Tensor

import blockformer as bf
from blockformer.assembly.warm_start import WarmStartError, WarmStartReport, warm_start
from blocks.models.base import Model

Overrides = tuple[str, ...]
INSTALLED = ("tiny_decoder", "tiny_encoder", "tiny_encoder_decoder", "tiny_experts", "tiny_hybrid", "tiny_local_global")
PAIRS = [(one, INSTALLED[(place + step) % 6]) for place, one in enumerate(INSTALLED) for step in (1, 2)]
MIXER, FEEDFORWARD = "decoder.layer.mixer", "decoder.layer.feedforward"
LEARNED = "embedding.positions=learned"
PLAIN = f"{FEEDFORWARD}={{type: mlp, hidden: 24}}"
EXPERTS = f"{FEEDFORWARD}={{type: moe, experts: 4, expert: {{type: glu, hidden: %d}}}}"
PROJECTION_NORM = (f"{MIXER}.qk_norm=rms", f"{MIXER}.qk_norm_over=projection")
KEPT: dict[str, tuple[Overrides, Overrides]] = {
    "key heads repeated": ((), (f"{MIXER}.kv_heads=4",)),
    "one key head repeated": ((f"{MIXER}.kv_heads=1",), (f"{MIXER}.kv_heads=2",)),
    "key heads under a norm of all": (PROJECTION_NORM, (*PROJECTION_NORM, f"{MIXER}.kv_heads=4")),
    "heads added": ((), (f"{MIXER}.heads=8", f"{MIXER}.kv_heads=4", f"{MIXER}.head_dim=8")),
    "heads with sinks added": (
        (f"{MIXER}.sinks=true", f"{MIXER}.gate=sigmoid"),
        (
            f"{MIXER}.sinks=true",
            f"{MIXER}.gate=sigmoid",
            f"{MIXER}.heads=6",
            f"{MIXER}.kv_heads=3",
            f"{MIXER}.head_dim=8",
        ),
    ),
    "latent heads added": (
        (f"{MIXER}={{type: latent, heads: 2, head_dim: 8}}",),
        (f"{MIXER}={{type: latent, heads: 3, head_dim: 8, kv_rank: 32}}",),
    ),
    "a gated feed-forward widened": ((), (f"{FEEDFORWARD}.hidden=90",)),
    "a plain feed-forward widened": ((PLAIN,), (f"{FEEDFORWARD}={{type: mlp, hidden: 40}}",)),
    "a feed-forward where 0 does not stay 0": (
        (f"{FEEDFORWARD}={{type: glu, hidden: 24, up_offset: 1, activation: sigmoid}}",),
        (f"{FEEDFORWARD}={{type: glu, hidden: 40, up_offset: 1, activation: sigmoid}}",),
    ),
    "experts widened": ((EXPERTS % 24,), (EXPERTS % 40,)),
    "experts out of one": ((), (EXPERTS % 64,)),
    "wider experts out of one": ((), (EXPERTS % 80,)),
    "vocabulary extended": ((), ("vocab_size=300",)),
    "vocabulary of a tied head with a bias extended": (("head.bias=true",), ("head.bias=true", "vocab_size=300")),
    "vocabulary of its own head extended": (("head=own",), ("head=own", "vocab_size=300")),
    "positions extended": ((LEARNED,), (LEARNED, "max_length=100")),
    "positions cut": ((LEARNED,), (LEARNED, "max_length=20")),
    "rows before the positions": ((LEARNED,), ("embedding.positions={type: learned, offset: 2}", "max_length=70")),
    "rows before the same positions": ((LEARNED,), ("embedding.positions={type: learned, offset: 2}",)),
    "no rows before the positions any more": (("embedding.positions={type: learned, offset: 2}",), (LEARNED,)),
    "biases added": ((), (f"{MIXER}.bias=true", f"{FEEDFORWARD}.bias=true", "head.bias=true")),
    "deeper": ((), ("decoder.depth=5",)),
    "deeper, parallel": (("decoder.layer={type: parallel}",), ("decoder.layer={type: parallel}", "decoder.depth=4")),
    "deeper, with experts": ((EXPERTS % 24,), (EXPERTS % 24, "decoder.depth=3")),
    "deeper, around a residual": (
        ("decoder.layer.residual={type: scaled, by: 0.5}",),
        ("decoder.layer.residual={type: scaled, by: 0.5}", "decoder.depth=3"),
    ),
    "no longer shared": (("decoder.distinct=1",), ()),
    "shared in pairs no longer": (("decoder.depth=4", "decoder.distinct=2"), ("decoder.depth=4",)),
    "head untied": ((), ("head=own",)),
    "head untied and extended": ((), ("head=own", "vocab_size=300")),
    "norms that count from 1": ((), ("decoder.norm={type: rms, offset: 1}",)),
}


def made(recipe: str, overrides: Overrides = (), seed: int = 0) -> Model:
    """A model whose values are all drawn, as after training: constants would hide where they come from."""
    model = bf.build(recipe, overrides, seed=seed).eval()
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    return model


def logits(model: Model, length: int = 12) -> Tensor:
    tokens = torch.randint(260, (2, length), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model(tokens, tokens) if model.kind == "encoder_decoder" else model(tokens)


def reported(new: Model, report: WarmStartReport) -> dict[str, str]:
    """The kind of each of the new model's parameters, after checking that each is named once."""
    here = [parameter for parameter in report.parameters if parameter.kind != "left"]
    assert sorted(parameter.name for parameter in here) == sorted(name for name, _ in new.named_parameters())
    assert report.size("carried") + report.size("adapted") + report.size("fresh") == new.size
    return {parameter.name: parameter.kind for parameter in here}


@pytest.mark.parametrize("recipe", INSTALLED)
def test_the_same_recipe_is_carried_over_bit_for_bit(recipe: str) -> None:
    old, new = made(recipe, seed=1), bf.build(recipe, seed=2).eval()
    report = warm_start(new, old)
    assert set(reported(new, report).values()) == {"carried"}
    assert report.size("left") == 0
    assert torch.equal(logits(new), logits(old))
    assert len(report.lines()) == 1


@pytest.mark.parametrize("change", KEPT)
def test_the_function_stays(change: str) -> None:
    before, after = KEPT[change]
    old, new = made("tiny_decoder", before, seed=1), bf.build("tiny_decoder", after, seed=2).eval()
    cold = logits(new)
    report = warm_start(new, old)
    reported(new, report)
    assert report.size("left") == 0
    expected = logits(old)
    torch.testing.assert_close(logits(new)[..., :260], expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(cold[..., :260], expected, atol=1e-2)


@pytest.mark.parametrize("change", ["a gated feed-forward widened", "heads added", "deeper", "vocabulary extended"])
def test_what_was_added_is_trained_from_the_first_step(change: str) -> None:
    before, after = KEPT[change]
    old, new = made("tiny_decoder", before, seed=1), bf.build("tiny_decoder", after, seed=2)
    warm_start(new, old)
    new(torch.arange(12)[None]).logsumexp(-1).sum().backward()
    grown = [name for name, one in new.named_parameters() if name not in dict(old.named_parameters())] or [
        name for name, one in new.named_parameters() if one.shape != old.get_parameter(name).shape
    ]
    outputs = [name for name in grown if name.endswith(("out.weight", "down.weight", "tokens.weight"))]
    assert outputs
    for name in outputs:
        gradient = new.get_parameter(name).grad
        assert gradient is not None
        rows = gradient if name.endswith("tokens.weight") else gradient.T
        assert bool((rows.norm(dim=1) > 0).all())
        assert len(rows.unique(dim=0)) == len(rows)


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_every_parameter_is_accounted_for_and_what_is_fresh_is_as_in_a_cold_start(before: str, after: str) -> None:
    old, new, cold = made(before, seed=1), bf.build(after, seed=2), bf.build(after, seed=2)
    trained = {name: parameter.clone() for name, parameter in old.named_parameters()}
    report = warm_start(new, old)
    kinds = reported(new, report)
    used = {parameter.origin for parameter in report.parameters if parameter.kind in ("carried", "adapted")}
    left = {parameter.name for parameter in report.parameters if parameter.kind == "left"}
    assert used - {None} | left == set(trained)
    assert not used & left
    for parameter in report.parameters:
        if kinds.get(parameter.name) == "fresh" and parameter.kind == "fresh":
            assert torch.equal(new.get_parameter(parameter.name), cold.get_parameter(parameter.name))
        elif parameter.kind == "carried":
            assert parameter.origin is not None
            assert torch.equal(new.get_parameter(parameter.name), trained[parameter.origin])
    assert all(torch.equal(parameter, trained[name]) for name, parameter in old.named_parameters())
    assert sum(row.size for row in report.rows) == sum(parameter.size for parameter in report.parameters)
    assert len(report.lines()) < 30
    assert bool(logits(new.eval()).isfinite().all())


def test_pooled_key_heads_are_the_means_of_their_groups() -> None:
    old = made("tiny_decoder", (f"{MIXER}.kv_heads=4",), seed=1)
    new = bf.build("tiny_decoder", (f"{MIXER}.kv_heads=2",))
    warm_start(new, old)
    name = "decoder.layers.1.mixer.v.weight"
    for head, parts in enumerate(((0, 1), (2, 3))):
        there = old.get_parameter(name).view(4, 8, 32)
        expected = (there[parts[0]] + there[parts[1]]) / 2
        torch.testing.assert_close(new.get_parameter(name).view(2, 8, 32)[head], expected)


def test_pooling_what_was_repeated_gives_the_model_back() -> None:
    few, many = bf.build("tiny_decoder"), bf.build("tiny_decoder", (f"{MIXER}.kv_heads=4",))
    old = made("tiny_decoder", seed=1)
    warm_start(many, old)
    warm_start(few, many)
    torch.testing.assert_close(logits(few.eval()), logits(old), atol=1e-6, rtol=1e-6)


def test_narrowing_leaves_out_units_that_do_nothing_first() -> None:
    old = made("tiny_decoder", seed=1)
    for layer in (0, 1):
        old.get_parameter(f"decoder.layers.{layer}.feedforward.down.weight").data[:, [3, 17, 40]] = 0
    new = bf.build("tiny_decoder", (f"{FEEDFORWARD}.hidden=61",)).eval()
    report = warm_start(new, old)
    torch.testing.assert_close(logits(new), logits(old), atol=1e-5, rtol=1e-5)
    assert "the 61 of 64 units with the largest weights" in "\n".join(report.lines())


def test_a_shallower_stack_takes_layers_from_first_to_last() -> None:
    old, new = made("tiny_decoder", ("decoder.depth=7",), seed=1), bf.build("tiny_decoder", ("decoder.depth=3",))
    report = warm_start(new, old)
    for here, there in enumerate((0, 3, 6)):
        names = (f"decoder.layers.{layer}.mixer.q.weight" for layer in (here, there))
        assert torch.equal(new.get_parameter(next(names)), old.get_parameter(next(names)))
    assert "of 7 layers, 0, 3, 6 are kept" in "\n".join(report.lines())
    assert [row.name for row in report.rows if row.kind == "left"] == ["decoder.layers.{1..2, 4..5}"]


def test_a_shallower_pattern_takes_the_first_layers_which_are_of_its_kinds() -> None:
    old, new = (
        made("tiny_local_global", seed=1),
        bf.build("tiny_local_global", ("decoder.depth=2", "decoder.rest=cut")),
    )
    report = warm_start(new, old)
    assert {parameter.origin for parameter in report.parameters if parameter.kind == "carried"} == set(
        dict(new.named_parameters())
    )


def test_layers_after_a_post_norm_are_fresh_as_they_cannot_be_the_identity() -> None:
    post = ("decoder.layer.residual={type: post}", "decoder.norm=null")
    old, new = made("tiny_decoder", post, seed=1), bf.build("tiny_decoder", (*post, "decoder.depth=3"))
    report = warm_start(new, old)
    assert {parameter.kind for parameter in report.parameters if parameter.name.startswith("decoder.layers.2.")} == {
        "fresh"
    }


@pytest.mark.parametrize(
    "change",
    [
        {"mixer": "fourier", "residual": "pre"},
        {"feedforward": {"type": "moe", "experts": 2, "identities": 2}, "residual": "pre"},
    ],
)
def test_layers_that_give_something_without_weights_are_fresh(change: dict[str, Any]) -> None:
    recipe = {
        "type": "encoder_only",
        "dim": 16,
        "vocab_size": 40,
        "max_length": 8,
        "encoder": {"depth": 1, "layer": {"mixer": {"heads": 2}, **change}},
    }
    old = bf.build(recipe)
    new = bf.build({**recipe, "encoder": {**recipe["encoder"], "depth": 2}})
    report = warm_start(new, old)
    assert {one.kind for one in report.parameters if one.name.startswith("encoder.layers.1.")} == {"fresh"}


def test_tokens_keep_what_was_learned_of_them_under_other_ids() -> None:
    old, new = made("tiny_decoder", seed=1), bf.build("tiny_decoder", ("vocab_size=263",), seed=2)
    tokens = [*reversed(range(260)), -1, -1, -1]
    report = warm_start(new, old, tokens=tokens)
    here, there = (model.get_parameter("embedding.tokens.weight") for model in (new, old))
    assert torch.equal(here[:260], there.flip(0))
    mean = there.mean(0)
    assert bool(((here[260:] - mean).norm(dim=1) < 0.1 * there.std(0).norm()).all())
    assert len(here[260:].unique(dim=0)) == 3
    assert "260 of 263 tokens found by their text" in "\n".join(report.lines())


@pytest.mark.parametrize("change", [{"dim": 24}, {"dim": 24, "decoder.layer.mixer.heads": 2}])
def test_models_with_nothing_in_common_are_refused_and_stay_as_they_are(change: dict[str, Any]) -> None:
    old, new = made("tiny_decoder", seed=1), bf.build("tiny_decoder", change, seed=2)
    before = {name: parameter.clone() for name, parameter in new.named_parameters()}
    with pytest.raises(WarmStartError, match="nothing carries over") as caught:
        warm_start(new, old)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(parameter, before[name]) for name, parameter in new.named_parameters())


def test_heads_cut_otherwise_are_said_and_another_block_is_named() -> None:
    old = made("tiny_decoder", seed=1)
    new = bf.build(
        "tiny_decoder", (f"{MIXER}.heads=2", f"{MIXER}.kv_heads=1", f"{FEEDFORWARD}={{type: mlp, hidden: 64}}")
    )
    text = "\n".join(warm_start(new, old).lines())
    assert "4 heads of 8 read as 2 of 16" in text
    assert "feedforward was glu, is mlp" in text


def test_a_block_of_someone_elses_that_declares_nothing_is_carried_if_it_fits_and_fresh_if_not() -> None:
    old = made("tiny_hybrid", seed=1)
    new = bf.build("tiny_hybrid", ("decoder.layers.memory.mixer.kernel=3",), seed=2)
    report = warm_start(new, old)
    fresh = [row for row in report.rows if row.kind == "fresh"]
    assert [row.name.rpartition(".")[2] for row in fresh] == ["convolution"]
    assert "there" in fresh[0].words
