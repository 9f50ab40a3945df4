"""Adapters in recipes: which projections have them, that they start at nothing, and that they can be folded in."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import blockformer as bf
from blockformer.assembly.merging import without_adapters
from blockformer.conformance.example import Example, run
from blocks.models.base import Model
from registry import RecipeError, load_recipe, spec_of

INSTALLED = ("tiny_decoder", "tiny_encoder", "tiny_encoder_decoder", "tiny_experts", "tiny_hybrid", "tiny_local_global")
ALL: Mapping[str, Any] = {"*": {"type": "lora", "rank": 2}}


def logits(model: Model) -> Tensor:
    ids = torch.arange(12).view(2, 6) % model.vocab_size
    with torch.no_grad():
        return run(model, Example(ids, memory=ids.flip(1) if model.kind == "encoder_decoder" else None))


def adapted(recipe: str, adapters: Mapping[str, Any] = ALL, **overrides: Any) -> Model:
    """A model whose adapters have learned something."""
    model = bf.build(recipe, {"adapters": adapters, **overrides}, seed=1).eval()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(5)
        for name, parameter in model.named_parameters():
            if name.endswith("adapter.b"):
                parameter.normal_(0.0, 0.1)
    return model


def adapters_of(model: Model) -> Iterator[str]:
    return (name for name, projection in model.projections.items() if projection.adapter is not None)


@pytest.mark.parametrize("recipe", INSTALLED)
def test_an_adapted_model_starts_as_the_model_itself_to_the_last_bit(recipe: str) -> None:
    plain, model = bf.build(recipe).eval(), bf.build(recipe, {"adapters": ALL}).eval()
    assert list(adapters_of(model)) == list(model.projections)
    assert torch.equal(logits(model), logits(plain))
    shared = dict(plain.named_parameters())
    added = {name: one for name, one in model.named_parameters() if name not in shared}
    assert all(torch.equal(model.get_parameter(name), one) for name, one in shared.items())
    assert added.keys() == {f"{name}.adapter.{leaf}" for name in model.projections for leaf in "ab"}
    assert model.parameters_by_slot()["adapter"] == sum(one.numel() for one in added.values())
    assert all(bool(one.any()) == name.endswith(".a") for name, one in added.items())


PATTERNS: Mapping[str, set[str]] = {
    "*.mixer.[qv]": {f"decoder.layers.{layer}.mixer.{name}" for layer in (0, 1) for name in "qv"},
    "decoder.layers.1.feedforward.*": {f"decoder.layers.1.feedforward.{name}" for name in ("gate", "up", "down")},
    "decoder.layers.0.mixer.out": {"decoder.layers.0.mixer.out"},
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_chooses_projections_by_name(pattern: str) -> None:
    model = bf.build("tiny_decoder", {"adapters": {pattern: "lora"}})
    assert set(adapters_of(model)) == PATTERNS[pattern]


WRONG: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "a wrong name": ({"decoder.layer.*.mixer.q": "lora"}, r"did you mean 'decoder\.layers\.\*\.mixer\.q'\?"),
    "another model's name": ({"nothing": "lora"}, r"no projection is called 'nothing'; known: decoder\.layers\.\*"),
    "a block": (
        {"*.mixer": "lora"},
        r"decoder\.layers\.0\.mixer \(MultiHeadAttention\).*for those inside it: '\*\.mixer",
    ),
    "a tied head": ({"head": "lora"}, r"head \(TiedHead\), which is not a projection; train it as a whole"),
    "a table": ({"embedding.tokens": "lora"}, r"embedding\.tokens \(Embedding\), which is not a projection"),
    "two patterns": ({"*.q": "lora", "*.mixer.*": "lora"}, r"decoder\.layers\.0\.mixer\.q also matches '\*\.q'"),
    "a wrong adapter": ({"*.q": "lor"}, "did you mean 'lora'"),
    "a wrong option": ({"*.q": {"rnk": 2}}, "did you mean 'rank'"),
    "a rank of 0": ({"*.q": {"rank": 0}}, "must be greater than 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_adapters_are_one_line_with_the_key_and_what_to_do(case: str) -> None:
    adapters, message = WRONG[case]
    with pytest.raises(RecipeError, match=message) as caught:
        bf.build("tiny_decoder", {"adapters": adapters})
    (problem,) = caught.value.problems
    assert problem.path.startswith("adapters.")
    assert "\n" not in str(problem)


def test_a_block_that_cannot_be_built_is_the_only_problem() -> None:
    with pytest.raises(RecipeError) as caught:
        bf.build("tiny_decoder", {"adapters": ALL, "decoder.layer.mixer.heads": 5})
    assert [problem.path for problem in caught.value.problems] == ["decoder.layer.mixer"]


def test_keys_without_effect_are_found_in_adapted_blocks() -> None:
    with pytest.raises(RecipeError, match="qk_norm_over: has no effect"):
        bf.build("tiny_decoder", {"adapters": ALL, "decoder.layer.mixer.qk_norm_over": "heads"})


@pytest.mark.parametrize("recipe", INSTALLED)
def test_every_projection_has_an_adapter_of_its_own_after_the_checks(recipe: str) -> None:
    source = {"extends": recipe, "adapters": dict(ALL), "max_length": 96}
    model = bf.check(load_recipe(recipe, {key: value for key, value in source.items() if key != "extends"}))
    own = [id(projection.adapter) for projection in model.projections.values()]
    assert len(set(own)) == len(own)


def test_recipes_without_adapters_keep_their_hash() -> None:
    recipe = load_recipe("tiny_decoder")
    assert recipe.dump()["adapters"] is None
    assert "adapters" not in recipe.spec.identity()
    assert load_recipe("tiny_decoder", {"adapters": ALL}).hash != recipe.hash


@pytest.mark.parametrize("recipe", INSTALLED)
def test_a_merged_model_computes_the_same_without_adapters(recipe: str) -> None:
    model, plain = adapted(recipe), load_recipe(recipe)
    expected = logits(model)
    assert (expected - logits(bf.build(recipe, seed=1).eval())).abs().max() > 0.01
    assert bf.merge(model) == list(model.projections)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
    assert list(model.state_dict()) == list(bf.build(plain).state_dict())
    spec = spec_of(model)
    assert spec is not None
    assert spec.hash == plain.hash == without_adapters(load_recipe(recipe, {"adapters": ALL})).hash
    assert bf.merge(model) == []


def test_a_copy_has_adapters_of_its_own() -> None:
    model = adapted("tiny_decoder")
    other, expected = copy.deepcopy(model), logits(model)
    bf.merge(other)
    assert torch.equal(logits(model), expected)
    torch.testing.assert_close(logits(other), expected, rtol=1e-4, atol=1e-5)


# warm starts


def test_a_model_without_adapters_fills_one_with_them() -> None:
    old, model = bf.build("tiny_decoder", seed=3).eval(), bf.build("tiny_decoder", {"adapters": ALL}, seed=0).eval()
    report = bf.warm_start(model, old)
    assert torch.equal(logits(model), logits(old))
    assert report.size("carried") == old.size
    assert report.size("fresh") == model.size - old.size


@pytest.mark.parametrize("recipe", INSTALLED)
@pytest.mark.parametrize("now", [None, {"*.q": "lora"}, {"*": {"type": "lora", "rank": 2, "alpha": 1.0}}])
def test_other_adapters_than_before_are_folded_in(recipe: str, now: Mapping[str, Any] | None) -> None:
    old, model = adapted(recipe), bf.build(recipe, {"adapters": now}, seed=0).eval()
    expected, names = logits(old), list(old.state_dict())
    report = bf.warm_start(model, old)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
    assert {one.name for one in report.parameters if "folded in" in one.words} == {
        f"{name}.weight" for name in old.projections
    }
    assert list(old.state_dict()) == names  # the trained model stays as it is
    assert torch.equal(logits(old), expected)


def test_the_same_adapters_are_carried_over() -> None:
    old, model = adapted("tiny_decoder"), bf.build("tiny_decoder", {"adapters": ALL}, seed=0)
    report = bf.warm_start(model, old)
    assert report.size("carried") == model.size
    assert all(torch.equal(one, old.state_dict()[name]) for name, one in model.state_dict().items())


def test_a_new_layer_with_adapters_starts_as_the_identity_and_can_learn() -> None:
    old, model = adapted("tiny_decoder"), bf.build("tiny_decoder", {"adapters": ALL, "decoder.depth": 3}, seed=0).eval()
    bf.warm_start(model, old)
    torch.testing.assert_close(logits(model), logits(old))
    assert bool(model.get_parameter("decoder.layers.2.mixer.out.adapter.a").any())


def test_adapters_of_other_shapes_are_folded_in_before_resizing() -> None:
    old = adapted("tiny_decoder")
    model = bf.build("tiny_decoder", {"adapters": ALL, "decoder.layer.mixer.kv_heads": 4}, seed=0).eval()
    bf.warm_start(model, old)
    torch.testing.assert_close(logits(model), logits(old), rtol=1e-4, atol=1e-5)
