"""A key without effect on the model is an error if the recipe itself sets it, and only then."""

from pathlib import Path

import pytest
import yaml

import blockformer as bf
from blockformer.assembly.unused_keys.module_equality import certainly_equal
from blockformer.conformance import BlockCase, pairs
from blockformer.conformance.checks.effects import check_every_stored_setting_has_an_effect
from blocks.base import FeedForward, Norm, Site
from registry import Recipe, RecipeError, entries, load_recipe
from tests.recipes.releases import DISTINCT

BASE = "type: decoder_only\ndim: 32\nvocab_size: 50\nmax_length: 16\n"
LAYER = BASE + "decoder:\n  depth: 2\n  layer: "
UNUSED = {
    "cross mixer in a decoder-only model": (LAYER + "{cross: {heads: 4}}\n", "decoder.layer.cross"),
    "qk_norm_over without qk_norm": (
        LAYER + "{mixer: {qk_norm_over: projection}}\n",
        "decoder.layer.mixer.qk_norm_over",
        "only if 'qk_norm' has another value",
    ),
    "qk_norm_after without qk_norm": (
        LAYER + "{mixer: {qk_norm_after: true}}\n",
        "decoder.layer.mixer.qk_norm_after",
    ),
    "qk_norm_after without rotation": (
        LAYER + "{mixer: {qk_norm: rms, qk_norm_after: true, positions: alibi}}\n",
        "decoder.layer.mixer.qk_norm_after",
        "only if 'positions' has another value",
    ),
    "norm offset without weight": (
        BASE + "decoder: {depth: 2, norm: {type: rms, weight: false, offset: 1.0}}\n",
        "decoder.norm.offset",
        "only if 'weight' has another value",
    ),
    "feed-forward residual without feed-forward": (
        LAYER + "{feedforward: none, feedforward_residual: post}\n",
        "decoder.layer.feedforward_residual",
        "only if 'feedforward' has another value",
    ),
    "cross residual without cross mixer": (LAYER + "{cross_residual: post}\n", "decoder.layer.cross_residual"),
    "feed-forward norm without feed-forward": (
        LAYER + "{type: parallel, feedforward: none, feedforward_norm: rms}\n",
        "decoder.layer.feedforward_norm",
    ),
    "rest without pattern": (BASE + "decoder: {depth: 2, rest: cut}\n", "decoder.rest"),
    "layer next to a pattern": (
        BASE + "decoder: {depth: 2, layers: {a: {}}, pattern: [a], layer: {mixer: {heads: 2}}}\n",
        "decoder.layer",
    ),
    "router groups that do not restrict the choice": (
        LAYER + "{feedforward: {type: moe, experts: 4, router: {groups: 2}}}\n",
        "decoder.layer.feedforward.router.groups",
    ),
    "group score without groups": (
        LAYER + "{feedforward: {type: moe, experts: 4, router: {group_score: top2}}}\n",
        "decoder.layer.feedforward.router.group_score",
    ),
    "default block that is not read": (LAYER + "{cross: attention}\n", "decoder.layer.cross"),
}


class ReadsNothing(FeedForward):
    """x; it ignores its parameter.

    Args:
        volume: not read.
    """

    def __init__(self, site: Site, *, volume: float = 1.0) -> None:
        super().__init__(site)
        self.level = 1.0

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.level * x


class StoresOnly(Norm):
    """x / 2; it stores its parameter without using it.

    Args:
        volume: stored, but not used.
    """

    def __init__(self, site: Site, *, volume: float = 1.0) -> None:
        super().__init__(site)
        self.volume = volume

    def forward(self, x):  # type: ignore[no-untyped-def]
        return x / 2


BLOCKS = {"reads_nothing_for_test": ReadsNothing, "stores_only_for_test": StoresOnly}


def recipe(tmp_path: Path, text: str, overrides: tuple[str, ...] = (), name: str = "r.yaml") -> Recipe:
    (tmp_path / name).write_text(text)
    return load_recipe(tmp_path / name, overrides)


def error_of(recipe: Recipe) -> str:
    with pytest.raises(RecipeError) as caught:
        bf.check(recipe)
    return str(caught.value)


@pytest.mark.parametrize(("text", "key", "words"), [(t, k, w) for t, k, *w in UNUSED.values()], ids=list(UNUSED))
def test_unused_key_is_reported(text: str, key: str, words: list[str], tmp_path: Path) -> None:
    (line,) = error_of(recipe(tmp_path, text)).splitlines()
    where, _, message = line.partition(f": {key}: ")
    assert where.startswith(f"{tmp_path}/r.yaml:"), line
    assert message.startswith("has no effect: ")
    assert all(word in message for word in words), message


@pytest.mark.parametrize("init", sorted(entries("init")))
def test_unused_key_is_reported_whatever_the_init(init: str, tmp_path: Path) -> None:
    text = LAYER + "{cross: {heads: 4}}\n" + f"init: {init}\n"
    assert "decoder.layer.cross: has no effect" in error_of(recipe(tmp_path, text))


def test_unused_key_does_not_change_the_model(tmp_path: Path) -> None:
    plain = bf.check(recipe(tmp_path, LAYER + "{mixer: {heads: 4}}\n"))
    base = recipe(tmp_path, LAYER + "{mixer: {heads: 4, qk_norm_over: projection}}\n")
    with pytest.raises(RecipeError):
        bf.check(base)
    assert certainly_equal(plain, bf.check(recipe(tmp_path, f"extends: {tmp_path}/r.yaml\ndim: 32\n", name="s.yaml")))


def test_key_that_the_block_does_not_read_is_reported(tmp_path: Path) -> None:
    text = LAYER + "{feedforward: {type: reads_nothing_for_test, volume: 2.0}}\n"
    assert "decoder.layer.feedforward.volume: has no effect" in error_of(recipe(tmp_path, text))


def test_conformance_rejects_a_setting_stored_without_effect() -> None:
    with pytest.raises(AssertionError, match=r"stored without any effect: .*volume"):
        check_every_stored_setting_has_an_effect(BlockCase("norm", "stores_only_for_test"))


def test_key_of_a_base_may_lose_its_effect(tmp_path: Path) -> None:
    recipe(tmp_path, LAYER + "{feedforward_residual: post}\n", name="base.yaml")
    bf.check(recipe(tmp_path, "extends: base.yaml\ndecoder: {layer: {feedforward: none}}\n"))


def test_key_of_a_file_may_lose_its_effect_through_an_override(tmp_path: Path) -> None:
    text = LAYER + "{feedforward_residual: post}\n"
    bf.check(recipe(tmp_path, text, ("decoder.layer.feedforward=none",)))


def test_unused_key_of_a_file_is_reported_despite_overrides(tmp_path: Path) -> None:
    found = error_of(recipe(tmp_path, LAYER + "{cross: {heads: 4}}\n", ("dim=64",)))
    assert found.startswith(f"{tmp_path}/r.yaml:7: decoder.layer.cross: has no effect")


def test_unused_override_is_reported(tmp_path: Path) -> None:
    found = error_of(recipe(tmp_path, BASE, ("decoder.rest=cut",)))
    assert found.startswith("override decoder.rest=cut: decoder.rest: has no effect")


def test_key_is_used_if_one_of_the_layers_that_inherit_it_uses_it(tmp_path: Path) -> None:
    layers = "{a: {mixer: {heads: 4, qk_norm: rms, qk_norm_over: heads}}, b: {like: a, mixer: {qk_norm: null}}}"
    bf.check(recipe(tmp_path, BASE + f"decoder:\n  depth: 2\n  layers: {layers}\n  pattern: [a, b]\n"))


@pytest.mark.parametrize("name", DISTINCT)
def test_canonical_form_is_accepted(name: str, tmp_path: Path) -> None:
    again = recipe(tmp_path, load_recipe(name).to_yaml())
    bf.check(again)
    assert again.hash == load_recipe(name).hash


def test_effects_of_settings_are_checked_in_every_slot() -> None:
    found = {
        case.slot for case, _ in pairs([ReadsNothing, StoresOnly], only=[check_every_stored_setting_has_an_effect])
    }
    assert found == {"feedforward", "norm"}


ACCEPTED = {
    "one head and one key head": LAYER + "{mixer: {heads: 1, kv_heads: 1}}\n",
    "one layer, one distinct layer": BASE + "decoder: {depth: 1, distinct: 1}\n",
    "rest with a pattern that fills the depth": BASE
    + "decoder: {depth: 2, layers: {a: {}, b: {}}, pattern: [a, b], rest: cut}\n",
    "explicit defaults": LAYER
    + "{cross_residual: null, mixer: {qk_norm_over: head}, feedforward: {type: moe, router: {groups: 1}}}\n",
}


@pytest.mark.parametrize("text", ACCEPTED.values(), ids=list(ACCEPTED))
def test_true_statements_and_explicit_defaults_are_accepted(text: str, tmp_path: Path) -> None:
    bf.check(recipe(tmp_path, text))


def test_shortened_canonical_form_is_accepted(tmp_path: Path) -> None:
    canonical = yaml.safe_dump(load_recipe("tiny_decoder").dump(), sort_keys=False)
    shorter = canonical.replace("  dropout: 0.0\n", "", 1)
    assert len(shorter) < len(canonical)
    bf.check(recipe(tmp_path, shorter))
