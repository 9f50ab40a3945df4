"""What a block declares that it cannot do is found before anything runs, and named with what to choose instead."""

from collections.abc import Callable
from copy import deepcopy
from io import BytesIO
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import blockformer as bf
from blockformer.assembly.capabilities import blocks_without, position_warnings
from blockformer.assembly.recipe_diff import compare
from blockformer.conformance import checks_for
from blockformer.conformance.block_case import block_cases
from blockformer.generation import greedy, stream
from blockformer.training.compatibility import backend_keys
from blocks.base import Context, Mixer, Norm, Site
from blocks.models.base import Model
from registry import Capabilities, RecipeError, entries, load_recipe


class Forgetful(Mixer):
    """The running mean of a projection; nothing of it is remembered between calls."""

    capabilities = Capabilities(
        places=frozenset({"causal"}), cache=False, documents=False, padding=False, bfloat16=False
    )

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.project = nn.Linear(site.dim, site.dim)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        steps = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)
        return self.project(x).cumsum(1) / steps[:, None]


BLOCKS = {"forgetful_for_test": Forgetful}


def complaint(name: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        bf.check(load_recipe(name, overrides))
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(entries("mixer")))
@pytest.mark.parametrize(
    ("recipe", "key", "place"),
    [
        ("tiny_decoder", "decoder.layer.mixer", "causal"),
        ("tiny_encoder", "encoder.layer.mixer", "bidirectional"),
        ("tiny_encoder_decoder", "decoder.layer.cross", "cross"),
    ],
)
def test_a_mixer_stands_where_it_declares_that_it_can(name: str, recipe: str, key: str, place: str) -> None:
    can = entries("mixer")[name].block.capabilities.places
    if place in can:
        bf.check(load_recipe(recipe, [f"{key}={name}"]))
        return
    found = complaint(recipe, f"{key}={name}")
    assert f"{key}: mixer '{name}' does not" in found
    assert "which layer 'sequential' (" in found
    fitting = sorted(other for other, entry in entries("mixer").items() if place in entry.block.capabilities.places)
    assert found.endswith(f"choose {' or '.join(fitting)}")


def test_what_turns_queries_cannot_be_shared_by_a_stack() -> None:
    found = complaint("tiny_decoder", "decoder.positions=rotary")
    assert "attention_positions 'rotary' needs rotation applied, which stack 'layers' (decoder) does not do" in found
    assert "choose alibi or none or t5" in found
    assert found.endswith("or move it to 'decoder.layer.mixer.positions'")


def test_a_parallel_layer_has_no_place_for_a_cross_mixer() -> None:
    found = complaint("tiny_encoder_decoder", "decoder.layer=parallel")
    assert "layer 'parallel' does not support cross-attention, which stack 'layers' (decoder) requires" in found
    assert found.endswith("choose altup or sequential")


def test_the_blocks_that_lack_an_ability_are_named_once_with_their_key() -> None:
    recipe = load_recipe("tiny_decoder", ["decoder.layer.mixer=forgetful_for_test", "decoder.depth=3"])
    model = bf.check(recipe)
    found = blocks_without(model, "padding")
    assert found.startswith("mixer 'forgetful_for_test' at decoder.layer.mixer (choose attention or ")
    assert found.count("forgetful") == 1
    assert not blocks_without(bf.check(load_recipe("tiny_decoder")), "padding")


def copied(model: Model) -> Model:
    return deepcopy(model)


def pickled(model: Model) -> Model:
    buffer = BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("rebuilt", [copied, pickled])
def test_a_copied_or_unpickled_model_gives_the_same_messages(rebuilt: Callable[[Model], Model]) -> None:
    forgetful = bf.build("tiny_decoder", ["decoder.layer.mixer=forgetful_for_test"])
    flex = bf.build("tiny_decoder", ["decoder.layer.mixer.backend=flex", "embedding.positions=learned"])
    assert blocks_without(rebuilt(forgetful), "padding") == blocks_without(forgetful, "padding")
    assert "at decoder.layer.mixer (" in blocks_without(rebuilt(forgetful), "padding")
    assert list(position_warnings(rebuilt(flex))) == list(position_warnings(flex)) != []
    assert backend_keys(rebuilt(flex), "flex") == ["decoder.layer.mixer.backend"]
    other = bf.check(load_recipe("tiny_decoder"))
    assert compare(other, rebuilt(flex)) == compare(other, flex)
    assert compare(flex, rebuilt(flex)) == []


def test_only_what_can_stand_there_is_proposed_instead() -> None:
    recipe = load_recipe("tiny_encoder", ["encoder.layer.mixer=fourier"])
    found = blocks_without(bf.check(recipe), "padding")
    assert "choose attention or " in found
    assert " or linear" in found
    assert "gated_delta" not in found


def test_what_is_not_declared_is_not_checked_but_its_refusal_is() -> None:
    names = {check.__name__ for check in checks_for(block_cases("mixer", "forgetful_for_test")[0])}
    assert {"check_refuses_padding", "check_refuses_documents", "check_refuses_a_cache"} <= names
    assert not names & {"check_ignores_padding", "check_packed_documents_are_independent", "check_decodes_in_chunks"}


def test_a_block_that_can_little_passes_the_checks_of_that() -> None:
    (case,) = block_cases("mixer", "forgetful_for_test")
    for check in checks_for(case):
        if check.__name__ not in ("check_cites_its_paper_with_a_year", "check_compiles_without_graph_breaks"):
            check(case)


def test_a_model_without_a_cache_writes_all_the_same() -> None:
    model = bf.build("tiny_decoder", ["decoder.layer.mixer=forgetful_for_test"]).eval()
    written = [token for (token,) in stream(model, [[1, 2, 3]], max_new_tokens=4, eos=None, choose=greedy)]
    text = [1, 2, 3]
    for token in written:
        assert token == int(model(torch.tensor([text]))[0, -1].argmax())
        text.append(int(token))


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        (
            "tiny_decoder",
            ["embedding.positions=learned"],
            ["learned at embedding.positions", "rotary at decoder.layer"],
        ),
        ("tiny_decoder", ["decoder.positions={type: alibi, heads: 4}"], ["alibi at decoder.positions", "rotary at"]),
        ("tiny_encoder", ["encoder.layer.mixer.positions=none"], ["encoder has no position encoding"]),
    ],
)
def test_several_position_encodings_or_none_give_a_warning(name: str, overrides: list[str], words: list[str]) -> None:
    recipe = load_recipe(name, overrides)
    (found,) = position_warnings(bf.check(recipe))
    assert all(word in found for word in words), found


def test_a_model_without_positions_ignores_the_order_of_tokens() -> None:
    model = bf.build("tiny_encoder", ["encoder.layer.mixer.positions=none"]).double().eval()
    tokens, order = torch.tensor([[5, 6, 7, 8]]), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model(tokens[:, order]), model(tokens)[:, order])


def test_the_recipes_of_the_project_give_no_position_warnings() -> None:
    for name in ("gpt2", "llama3_8b", "bert_base", "transformer", "tiny_hybrid"):
        assert not list(position_warnings(bf.check(load_recipe(name))))


def test_an_error_of_a_block_that_mentions_overflow_is_not_blamed_on_the_recipe(
    registry_of_a_test: Any,
) -> None:
    class Faulty(Norm):
        def __init__(self, site: Site, *, eps: float = 1e-6) -> None:
            raise RuntimeError("overflow in a kernel")

        def forward(self, x: Tensor) -> Tensor:
            return x

    registry_of_a_test("faulty_for_test")(Faulty)
    with pytest.raises(RuntimeError, match="overflow in a kernel"):
        bf.check(load_recipe("tiny_decoder", ["decoder.norm=faulty_for_test"]))
