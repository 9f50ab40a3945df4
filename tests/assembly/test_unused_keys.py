"""A key that cannot change the model is an error, where the recipe itself says it and nowhere else."""

from pathlib import Path

import pytest
import yaml

import blockformer as bf
from blockformer.assembly.unused_keys.module_equality import same
from blockformer.conformance import BlockCase, pairs
from blockformer.conformance.checks.effects import check_every_stored_setting_has_an_effect
from blocks.base import FeedForward, Norm, Site
from registry import Recipe, RecipeError, load_recipe
from tests.recipes.releases import DISTINCT

BASE = "type: decoder_only\ndim: 32\nvocab_size: 50\nmax_length: 16\n"
LAYER = BASE + "decoder:\n  depth: 2\n  layer: "
VAIN = {
    "the cross mixer of a decoder alone": (LAYER + "{cross: {heads: 4}}\n", "decoder.layer.cross"),
    "how to norm what is not normed": (
        LAYER + "{mixer: {qk_norm_over: projection}}\n",
        "decoder.layer.mixer.qk_norm_over",
        "only with another 'qk_norm'",
    ),
    "when to norm what is not normed": (
        LAYER + "{mixer: {qk_norm_after: true}}\n",
        "decoder.layer.mixer.qk_norm_after",
    ),
    "when to norm what is not turned": (
        LAYER + "{mixer: {qk_norm: rms, qk_norm_after: true, positions: alibi}}\n",
        "decoder.layer.mixer.qk_norm_after",
        "only with another 'positions'",
    ),
    "what is added to no scale": (
        BASE + "decoder: {depth: 2, norm: {type: rms, weight: false, offset: 1.0}}\n",
        "decoder.norm.offset",
        "only with another 'weight'",
    ),
    "the wiring of no feed-forward": (
        LAYER + "{feedforward: none, feedforward_residual: post}\n",
        "decoder.layer.feedforward_residual",
        "only with another 'feedforward'",
    ),
    "the wiring of no cross mixer": (LAYER + "{cross_residual: post}\n", "decoder.layer.cross_residual"),
    "the norm of no feed-forward": (
        LAYER + "{type: parallel, feedforward: none, feedforward_norm: rms}\n",
        "decoder.layer.feedforward_norm",
    ),
    "the rest of no pattern": (BASE + "decoder: {depth: 2, rest: cut}\n", "decoder.rest"),
    "a layer beside a pattern": (
        BASE + "decoder: {depth: 2, layers: {a: {}}, pattern: [a], layer: {mixer: {heads: 2}}}\n",
        "decoder.layer",
    ),
    "groups that do not restrict": (
        LAYER + "{feedforward: {type: moe, experts: 4, router: {groups: 2}}}\n",
        "decoder.layer.feedforward.router.groups",
    ),
    "the score of no groups": (
        LAYER + "{feedforward: {type: moe, experts: 4, router: {group_score: top2}}}\n",
        "decoder.layer.feedforward.router.group_score",
    ),
    "a default that nobody reads": (LAYER + "{cross: attention}\n", "decoder.layer.cross"),
}


class Deaf(FeedForward):
    """x, whatever the recipe says.

    Args:
        volume: is not read.
    """

    def __init__(self, site: Site, *, volume: float = 1.0) -> None:
        super().__init__(site)
        self.level = 1.0

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.level * x


class Hoarder(Norm):
    """x / 2, and keeps what it does not use.

    Args:
        volume: is kept, but not read.
    """

    def __init__(self, site: Site, *, volume: float = 1.0) -> None:
        super().__init__(site)
        self.volume = volume

    def forward(self, x):  # type: ignore[no-untyped-def]
        return x / 2


BLOCKS = {"deaf_for_test": Deaf, "hoarder_for_test": Hoarder}


def recipe(tmp_path: Path, text: str, overrides: tuple[str, ...] = (), name: str = "r.yaml") -> Recipe:
    (tmp_path / name).write_text(text)
    return load_recipe(tmp_path / name, overrides)


def complaint(recipe: Recipe) -> str:
    with pytest.raises(RecipeError) as caught:
        bf.check(recipe)
    return str(caught.value)


@pytest.mark.parametrize(("text", "key", "words"), [(t, k, w) for t, k, *w in VAIN.values()], ids=list(VAIN))
def test_a_key_that_changes_nothing_is_named(text: str, key: str, words: list[str], tmp_path: Path) -> None:
    (line,) = complaint(recipe(tmp_path, text)).splitlines()
    where, _, message = line.partition(f": {key}: ")
    assert where.startswith(f"{tmp_path}/r.yaml:"), line
    assert "changes nothing here" in message
    assert all(word in message for word in words), message


def test_without_it_the_model_is_the_same(tmp_path: Path) -> None:
    plain = bf.check(recipe(tmp_path, LAYER + "{mixer: {heads: 4}}\n"))
    base = recipe(tmp_path, LAYER + "{mixer: {heads: 4, qk_norm_over: projection}}\n")
    with pytest.raises(RecipeError):
        bf.check(base)
    assert same(plain, bf.check(recipe(tmp_path, f"extends: {tmp_path}/r.yaml\ndim: 32\n", name="s.yaml")))


def test_a_block_that_does_not_read_a_key_is_found_out(tmp_path: Path) -> None:
    text = LAYER + "{feedforward: {type: deaf_for_test, volume: 2.0}}\n"
    assert "decoder.layer.feedforward.volume: changes nothing here" in complaint(recipe(tmp_path, text))


def test_a_block_that_keeps_a_key_in_vain_does_not_conform() -> None:
    with pytest.raises(AssertionError, match=r"stored without any effect: .*volume"):
        check_every_stored_setting_has_an_effect(BlockCase("norm", "hoarder_for_test"))


def test_what_a_base_says_may_lose_its_effect(tmp_path: Path) -> None:
    recipe(tmp_path, LAYER + "{feedforward_residual: post}\n", name="base.yaml")
    bf.check(recipe(tmp_path, "extends: base.yaml\ndecoder: {layer: {feedforward: none}}\n"))


def test_what_an_override_makes_ineffective_is_no_mistake_of_the_file(tmp_path: Path) -> None:
    text = LAYER + "{feedforward_residual: post}\n"
    bf.check(recipe(tmp_path, text, ("decoder.layer.feedforward=none",)))


def test_what_was_ineffective_in_the_file_is_its_mistake_under_overrides_too(tmp_path: Path) -> None:
    found = complaint(recipe(tmp_path, LAYER + "{cross: {heads: 4}}\n", ("dim=64",)))
    assert found.startswith(f"{tmp_path}/r.yaml:7: decoder.layer.cross: changes nothing")


def test_an_override_that_changes_nothing_is_named(tmp_path: Path) -> None:
    found = complaint(recipe(tmp_path, BASE, ("decoder.rest=cut",)))
    assert found.startswith("override decoder.rest=cut: decoder.rest: changes nothing")


def test_what_one_layer_uses_another_that_starts_from_it_need_not(tmp_path: Path) -> None:
    layers = "{a: {mixer: {heads: 4, qk_norm: rms, qk_norm_over: heads}}, b: {like: a, mixer: {qk_norm: null}}}"
    bf.check(recipe(tmp_path, BASE + f"decoder:\n  depth: 2\n  layers: {layers}\n  pattern: [a, b]\n"))


@pytest.mark.parametrize("name", DISTINCT)
def test_the_canonical_form_says_everything_and_may(name: str, tmp_path: Path) -> None:
    again = recipe(tmp_path, load_recipe(name).to_yaml())
    bf.check(again)
    assert again.hash == load_recipe(name).hash


def test_every_kind_of_block_is_compared() -> None:
    found = {case.slot for case, _ in pairs([Deaf, Hoarder], only=[check_every_stored_setting_has_an_effect])}
    assert found == {"feedforward", "norm"}


FINE = {
    "as many key heads as heads, of which there is one": LAYER + "{mixer: {heads: 1, kv_heads: 1}}\n",
    "the one layer that there is": BASE + "decoder: {depth: 1, distinct: 1}\n",
    "the rest of a pattern that fits": BASE
    + "decoder: {depth: 2, layers: {a: {}, b: {}}, pattern: [a, b], rest: cut}\n",
    "defaults that are written out": LAYER
    + "{cross_residual: null, mixer: {qk_norm_over: head}, feedforward: {type: moe, router: {groups: 1}}}\n",
}


@pytest.mark.parametrize("text", FINE.values(), ids=list(FINE))
def test_what_is_true_or_claims_nothing_is_no_mistake(text: str, tmp_path: Path) -> None:
    bf.check(recipe(tmp_path, text))


def test_a_canonical_form_may_be_shortened(tmp_path: Path) -> None:
    canonical = yaml.safe_dump(load_recipe("tiny_decoder").dump(), sort_keys=False)
    shorter = canonical.replace("  dropout: 0.0\n", "", 1)
    assert len(shorter) < len(canonical)
    bf.check(recipe(tmp_path, shorter))
