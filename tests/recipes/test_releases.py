"""A recipe of a published model is that model: in every key, and in size to the last parameter."""

import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import blockformer as bf
from blockformer.huggingface.config import Config
from blockformer.huggingface.family import family_of
from blockformer.huggingface.importer import recipe_from_config, unread_keys
from blockformer.huggingface.template import MAX_LAYERS, TemplateContext
from registry import Recipe, builtin_recipes, load_recipe
from tests.recipes.releases import FOLDERS, RELEASES, SIZES, Release

FREE = ("dropout", "init")  # no config.json says them all; what it does say is compared below
LEARNED_BUFFERS = r"e_score_correction_bias|final_logits_bias"  # trained, or free to be, and stored with the weights
DROPOUT = {
    "attention": ("attn_pdrop", "attention_dropout", "attention_probs_dropout_prob", "dropout_rate"),
    "activation": ("activation_dropout", "dropout_rate"),
    "stream": ("embd_pdrop", "resid_pdrop", "hidden_dropout", "dropout", "hidden_dropout_prob", "dropout_rate"),
}
each_release = pytest.mark.parametrize("release", RELEASES, ids=str)
BY_COST = [pytest.param(r, marks=pytest.mark.slow if r.name in SIZES else ()) for r in RELEASES]
one_size_each = pytest.mark.parametrize("release", BY_COST, ids=str)  # the other sizes when there is time


def imported(config: Mapping[str, Any], head: bool) -> Recipe:
    """What `blockformer import` makes of a config.json, and of weights that hold a head of their own or not."""
    family = family_of(config, Path("config.json"))
    others = {f"tensor_{index}" for index in range(MAX_LAYERS)}  # a folder has no fewer tensors than layers
    tensors = frozenset({*others, "lm_head.weight"} if head else others)
    context = TemplateContext(family, Config(config), {"tensors": tensors})
    recipe = recipe_from_config(context)
    assert [str(problem) for problem in unread_keys(context, Path("config.json"))] == []
    return recipe


@cache
def imported_release(release: Release) -> Recipe:
    return imported(release.config, has_head(release))


def has_head(release: Release) -> bool:
    return not release.config.get("tie_word_embeddings", True)


def model_alone(tree: Any) -> Any:
    """A canonical form without what a training run decides."""
    if isinstance(tree, Mapping):
        return {key: model_alone(value) for key, value in tree.items() if key not in FREE}
    return [model_alone(item) for item in tree] if isinstance(tree, list | tuple) else tree


def with_head_dim(tree: Any, dim: int) -> Any:
    """A canonical form in which the width of a head stands where it follows from others."""
    if isinstance(tree, Mapping):
        found = {key: with_head_dim(value, dim) for key, value in tree.items()}
        if found.get("type") in ("attention", "cross_attention"):
            found["head_dim"] = found["head_dim"] or dim // found["heads"]
        return found
    return [with_head_dim(item, dim) for item in tree] if isinstance(tree, list | tuple) else tree


def dropouts(tree: Any, place: str = "stream") -> Iterator[tuple[str, float]]:
    """Every dropout with what it drops: weights of attention, activations, or channels of the residual stream."""
    items = tree.items() if isinstance(tree, Mapping) else ()
    for key, value in items:
        if key == "dropout" and value:
            yield place, value
        inner = {"mixer": "attention", "cross": "attention", "feedforward": "activation"}.get(key, "stream")
        yield from dropouts(value, inner)


@each_release
def test_has_the_published_number_of_parameters(release: Release) -> None:
    assert bf.check(load_recipe(release.name)).size == release.parameters
    if release.shown is not None and release.besides is not None:
        assert release.shown == release.parameters + sum(release.besides.values())


@one_size_each
def test_is_what_an_import_of_the_release_gives(release: Release) -> None:
    assert load_recipe(model_alone(load_recipe(release.name).dump())).hash == imported_release(release).hash


@each_release
def test_drops_out_and_starts_as_the_release_says(release: Release) -> None:
    recipe, config = load_recipe(release.name).dump(), release.config
    for place, keys in DROPOUT.items():
        said = {config[key] for key in keys if config.get(key)}
        assert {share for where, share in dropouts(recipe) if where == place} == said, place
    if "initializer_factor" not in config:  # T5's own scheme, of which the recipe says what stands for it
        assert recipe["init"]["std"] == config.get("initializer_range", config.get("init_std"))


@each_release
def test_says_its_size_and_its_source(release: Release) -> None:
    comment = " ".join(line.lstrip("# ") for line in builtin_recipes()[release.name].read_text().splitlines()[1:])
    assert f"{release.parameters:,}" in comment
    assert f"https://huggingface.co/{release.id}" in comment
    assert release.shown is None or f"{release.shown:,}" in comment


@one_size_each
def test_transformers_reads_the_config_as_we_do(release: Release) -> None:
    """Its classes fill in what a config.json leaves out, and write all of it in the spelling of today."""
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(**deepcopy(release.config))
    written = json.loads(config.to_json_string(use_diff=False))
    ours, theirs = imported_release(release).dump(), imported(written, has_head(release)).dump()
    assert with_head_dim(ours, ours["dim"]) == with_head_dim(theirs, theirs["dim"])


@one_size_each
def test_transformers_model_has_as_many_parameters(release: Release) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(**deepcopy(release.config))
    with torch.device("meta"):
        model = getattr(transformers, release.config["architectures"][0])(config)
    size = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    size += sum(buffer.numel() for name, buffer in model.named_buffers() if re.search(LEARNED_BUFFERS, name))
    if has_head(release) and getattr(model, "lm_head", None) is not None:
        head, table = model.lm_head.weight, model.get_input_embeddings().weight
        size += head.numel() if head is table else 0  # T5's is tied until its weights say that it is not
    assert size == release.parameters


def test_every_recipe_of_a_published_model_is_tested() -> None:
    assert set(FOLDERS) == {release.name for release in RELEASES} | {"transformer", "transformer_big"}
