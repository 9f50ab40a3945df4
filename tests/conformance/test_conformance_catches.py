"""The suite finds what is wrong: one broken block for each of its checks."""

from collections.abc import Callable
from typing import Any

import pytest

from blockformer.conformance import BlockCase, NotApplicable, pairs, parametrize_checks
from blockformer.conformance.block_case import SMALL
from blocks.models.base import Model
from registry import Block
from tests.conformance import broken

SIZES = {**SMALL, "decoder": {"depth": 2}}


@pytest.fixture
def registering(registry_of_a_test: Callable[..., Any]) -> Callable[[type[Any]], BlockCase]:
    """Registers a class for one test."""

    def registered(block: type[Block]) -> BlockCase:
        params = {key: SIZES[key] for key in ("dim", "vocab_size", "max_length", "decoder")}
        place = "causal" if "causal" in block.capabilities.places else next(iter(block.capabilities.places))
        registry_of_a_test(block.__name__.lower())(block)
        return BlockCase.of(block, params if issubclass(block, Model) else {}, place)

    return registered


def failing(case: BlockCase, among: set[str] | None = None) -> set[str]:
    found: set[str] = set()
    for _, check in pairs([case]):
        name = check.__name__.removeprefix("check_")
        if among is not None and name not in among:
            continue
        try:
            check(case)
        except NotApplicable:
            continue
        except Exception:
            found.add(name)
    return found


@pytest.mark.parametrize("name", ["CausalMean", "BothWays", "Double"])
def test_a_right_block_passes(name: str, registering: Callable[[type[Any]], BlockCase]) -> None:
    assert failing(registering(getattr(broken, name))) == set()


CAUGHT: dict[str, set[str]] = {
    "Backed": {"backends_agree"},
    "Clairvoyant": {"is_causal", "decodes_in_chunks", "accepts_one_token"},
    "Shortsighted": {"attends_exactly_its_window"},
    "Farsighted": {"attends_exactly_its_window"},
    "Forgetful": {
        "decodes_token_by_token",
        "decodes_in_chunks",
        "decodes_a_padded_batch",
        "decodes_after_reordering_the_cache",
    },
    "Hoarding": {"cache_size_is_as_declared", "cache_takes_at_most_twice_its_size"},
    "Rounding": {"cache_keeps_dtype_and_device"},
    "Clinging": {"new_cache_starts_empty"},
    "Placing": {"position_shift_has_the_declared_effect"},
    "Ordering": {"token_order_matters_only_if_declared", "attends_exactly_its_window"},
    "PaddingReader": {"ignores_padding", "ignores_padding_of_each_row", "decodes_a_padded_batch"},
    "DocumentReader": {"packed_documents_are_independent"},
    "HalfPrecise": {"gradients_match_finite_differences"},
    "Louder": {"no_op_values_change_nothing"},
    "Repeating": {"refuses_memory_of_another_batch_size"},
    "Overwriter": {"does_not_modify_its_inputs"},
    "Unused": {"gradients_reach_every_parameter", "compiles_without_graph_breaks"},
    "Stray": {"registers_every_tensor_as_a_parameter"},
    "Aliased": {"restores_its_state_dict"},
    "Growing": {"parameter_names_do_not_change"},
    "Restless": {"rows_are_independent", "is_deterministic", "restores_its_state_dict", "copies_are_independent"},
    "Upcast": {"returns_the_input_dtype"},
    "Coarse": {"bfloat16_gradients_match_float64"},
    "Breaking": {"compiles_without_graph_breaks", "exports"},
    "Unrolling": {"compiles_once_for_all_lengths"},
    "Detached": {"gradients_match_finite_differences"},
    "Costly": {"flops_match_torch"},
    "Neighbourly": {"tokens_are_independent"},
    "Undocumented": {"documents_every_parameter"},
    "DroppingMore": {"dropout_has_its_rate"},
    "DroppingTheSame": {"dropout_has_its_rate"},
    "Batchy": {"rows_are_independent"},
    "Rowless": {"accepts_empty_inputs"},
    "Stretching": {"refuses_another_width"},
    "Wrapping": {"decoding_has_the_same_length_limit"},
    "Boasting": {"init_draws_the_declared_deviation"},
    "Rescaled": {"model_starts_with_the_declared_deviation"},
    "Lenient": {"refuses_float_masks"},
    "Unteachable": {"learns_one_batch"},
}


@pytest.mark.parametrize("name", CAUGHT)
def test_a_broken_block_is_found(name: str, registering: Callable[[type[Any]], BlockCase]) -> None:
    assert failing(registering(getattr(broken, name)), CAUGHT[name]) == CAUGHT[name]


def test_a_failure_can_be_expected_with_its_reason(registering: Callable[[type[Any]], BlockCase]) -> None:
    case = registering(broken.Costly)
    reasons = {"feedforward/costly: flops_match_torch": "it multiplies twice"}
    (params,) = [mark.args[1] for mark in [parametrize_checks([case], expected_failures=reasons).mark]]
    (marked,) = [param for param in params if param.marks]
    assert marked.id == "feedforward/costly: flops_match_torch"
    assert marked.marks[0].kwargs == {"reason": "it multiplies twice", "strict": True}
    with pytest.raises(ValueError, match="counts_its_sheep"):
        parametrize_checks([case], expected_failures={"counts_its_sheep": "there are none"})
