"""The suite finds what is wrong: one broken block for each of its checks."""

from collections.abc import Callable
from typing import Any

import pytest

from blockformer.conformance import Subject, pairs, parametrize_checks
from blockformer.conformance.subject import SMALL
from blocks.models.base import Model
from registry import Block
from tests.conformance import broken

SIZES = {**SMALL, "decoder": {"depth": 2}}


@pytest.fixture
def registering(registry_of_a_test: Callable[..., Any]) -> Callable[[type[Any]], Subject]:
    """Registers a class for one test."""

    def registered(block: type[Block]) -> Subject:
        params = {key: SIZES[key] for key in ("dim", "vocab_size", "max_length", "decoder")}
        place = "causal" if "causal" in block.capabilities.places else next(iter(block.capabilities.places))
        registry_of_a_test(block.__name__.lower())(block)
        return Subject.of(block, params if issubclass(block, Model) else {}, place)

    return registered


def failing(subject: Subject, among: set[str] | None = None) -> set[str]:
    found: set[str] = set()
    for _, check in pairs([subject]):
        name = check.__name__.removeprefix("check_")
        if among is not None and name not in among:
            continue
        try:
            check(subject)
        except Exception:
            found.add(name)
    return found


@pytest.mark.parametrize("name", ["CausalMean", "BothWays", "Double"])
def test_a_right_block_passes(name: str, registering: Callable[[type[Any]], Subject]) -> None:
    assert failing(registering(getattr(broken, name))) == set()


CAUGHT: dict[str, set[str]] = {
    "Backed": {"backends_agree"},
    "Clairvoyant": {"sees_no_future", "decodes_in_chunks", "takes_one_token"},
    "Shortsighted": {"sees_as_far_as_it_says"},
    "Farsighted": {"sees_as_far_as_it_says"},
    "Forgetful": {"decodes_token_by_token", "decodes_in_chunks", "decodes_a_padded_batch", "follows_a_beam"},
    "Hoarding": {"counts_its_cache", "keeps_its_cache_small"},
    "Rounding": {"keeps_its_cache_as_precise"},
    "Clinging": {"begins_anew_with_a_new_cache"},
    "Placing": {"shifts_as_it_says"},
    "Ordering": {"knows_no_order_without_positions", "sees_as_far_as_it_says"},
    "PaddingReader": {"ignores_padding", "ignores_padding_row_by_row", "decodes_a_padded_batch"},
    "DocumentReader": {"keeps_documents_apart"},
    "HalfPrecise": {"gradients_are_right"},
    "Louder": {"neutral_values_change_nothing"},
    "Repeating": {"refuses_a_memory_of_other_rows"},
    "Overwriter": {"leaves_its_inputs_alone"},
    "Unused": {"gradients_reach_every_parameter", "compiles"},
    "Stray": {"keeps_tensors_as_parameters"},
    "Aliased": {"restores_its_state"},
    "Growing": {"keeps_its_names"},
    "Restless": {"treats_rows_alone", "repeats_itself", "restores_its_state", "copies"},
    "Upcast": {"keeps_the_dtype"},
    "Coarse": {"trains_in_bfloat16"},
    "Breaking": {"compiles", "exports"},
    "Unrolling": {"compiles_once_for_all_lengths"},
    "Detached": {"gradients_are_right"},
    "Costly": {"counts_its_flops"},
    "Neighbourly": {"treats_each_token_alone"},
    "Undocumented": {"documents_its_parameters"},
    "DroppingMore": {"drops_out_at_its_rate"},
    "DroppingTheSame": {"drops_out_at_its_rate"},
    "Batchy": {"treats_rows_alone"},
    "Rowless": {"takes_nothing"},
    "Stretching": {"refuses_vectors_of_another_width"},
    "Wrapping": {"decodes_no_further_than_it_reads"},
    "Boasting": {"draws_as_it_says"},
    "Rescaled": {"starts_as_it_says"},
    "Lenient": {"refuses_masks_of_numbers"},
    "Unteachable": {"learns_a_batch"},
}


@pytest.mark.parametrize("name", CAUGHT)
def test_a_broken_block_is_found(name: str, registering: Callable[[type[Any]], Subject]) -> None:
    assert failing(registering(getattr(broken, name)), CAUGHT[name]) == CAUGHT[name]


def test_a_failure_can_be_expected_with_its_reason(registering: Callable[[type[Any]], Subject]) -> None:
    subject = registering(broken.Costly)
    reasons = {"feedforward/costly: counts_its_flops": "it multiplies twice"}
    (params,) = [mark.args[1] for mark in [parametrize_checks([subject], expected_failures=reasons).mark]]
    (marked,) = [param for param in params if param.marks]
    assert marked.id == "feedforward/costly: counts_its_flops"
    assert marked.marks[0].kwargs == {"reason": "it multiplies twice", "strict": True}
    with pytest.raises(ValueError, match="counts_its_sheep"):
        parametrize_checks([subject], expected_failures={"counts_its_sheep": "there are none"})
