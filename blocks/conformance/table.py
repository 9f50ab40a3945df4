"""Which checks a block has to pass: by its slot, and by where it stands."""

from collections.abc import Callable, Mapping

from blocks.conformance import (
    building,
    computing,
    counting,
    decoding,
    documenting,
    experts,
    gradients,
    initial,
    mattering,
    padding,
    refusing,
    repeating,
    saving,
    seeing,
    shaping,
)
from blocks.conformance.example import looks_at_memory
from blocks.conformance.subject import Subject

Check = Callable[[Subject], None]
Checks = tuple[Check, ...]

WORDS: Checks = (
    building.check_builds_from_its_name,
    documenting.check_says_what_it_computes,
    documenting.check_documents_its_parameters,
    documenting.check_names_its_paper_with_a_year,
)
MODULE: Checks = (
    *WORDS,
    building.check_builds_on_meta,
    building.check_keeps_tensors_as_parameters,
    building.check_is_the_same_when_built_on_meta,
    shaping.check_keeps_the_shape,
    shaping.check_keeps_the_dtype,
    shaping.check_is_precise_in_float32,
    shaping.check_works_in_bfloat16,
    shaping.check_takes_one_token,
    shaping.check_takes_nothing,
    shaping.check_leaves_its_inputs_alone,
    gradients.check_gradients_reach_every_parameter,
    gradients.check_gradients_are_right,
    gradients.check_survives_zeros,
    gradients.check_can_be_computed_again,
    seeing.check_treats_rows_alone,
    repeating.check_repeats_itself,
    repeating.check_drops_out_only_in_training,
    repeating.check_trains_as_it_evaluates_without_dropout,
    repeating.check_initial_values_depend_on_names_alone,
    saving.check_restores_its_state,
    saving.check_copies,
    saving.check_shares_no_parameter_twice,
    computing.check_compiles,
    refusing.check_takes_its_full_length,
    mattering.check_reads_what_it_keeps,
)
ALONE: Checks = (seeing.check_treats_each_token_alone, seeing.check_sees_itself)
PLACED: Checks = (padding.check_ignores_padding, padding.check_ignores_padding_row_by_row)
DECODING: Checks = (decoding.check_decodes_token_by_token, decoding.check_decodes_in_chunks)
PACKED: Checks = (padding.check_keeps_documents_apart,)
WIRED: Checks = (
    *PLACED,
    padding.check_survives_rows_of_padding,
    counting.check_counts_its_flops,
    refusing.check_refuses_masks_of_another_shape,
)
MEMORY: Checks = (
    seeing.check_reads_the_memory,
    padding.check_ignores_padding_of_the_memory,
)
WRITING: Checks = (
    seeing.check_sees_no_future,
    *DECODING,
    decoding.check_decodes_a_padded_batch,
    decoding.check_follows_a_beam,
    decoding.check_sees_no_future_through_the_cache,
)

BY_SLOT: Mapping[str, Checks] = {
    "activation": (*MODULE, *ALONE, counting.check_counts_its_flops),
    "norm": (*MODULE, *ALONE, counting.check_counts_its_flops),
    "feedforward": (*MODULE, *ALONE, counting.check_counts_its_flops, experts.check_stands_for_each_expert),
    "router": (*MODULE, *ALONE, counting.check_counts_its_flops),
    "transform": (*MODULE, *ALONE, counting.check_counts_its_flops),
    "head": (*MODULE, *ALONE, counting.check_counts_its_flops),
    "residual": (*MODULE, *ALONE, counting.check_counts_its_flops),
    "input_positions": (*MODULE, *ALONE, *PLACED, *DECODING, *PACKED),
    "attention_positions": (*MODULE, *PLACED, padding.check_survives_rows_of_padding),
    "embedding": (*MODULE, *ALONE, *PLACED, *DECODING, *PACKED),
    "mixer": (*MODULE, *WIRED, computing.check_backends_agree),
    "layer": (*MODULE, *WIRED, seeing.check_sees_itself),
    "stack": (*MODULE, *WIRED, seeing.check_sees_itself),
    "model": (*MODULE, *WIRED, seeing.check_sees_itself, counting.check_counts_its_parameters),
    "rotary_scaling": WORDS,
    "init": (*WORDS, initial.check_draws_by_its_generator_alone, initial.check_draws_every_value),
}


def checks(subject: Subject) -> Checks:
    """All that apply to a block at its place.

    Raises:
        KeyError: the slot is not one of ours.
    """
    slot, memory = subject.slot, looks_at_memory(subject)
    found = BY_SLOT[slot]
    if slot not in ("mixer", "layer", "stack", "model", "attention_positions"):
        return found
    if memory:
        found += MEMORY if slot == "model" else (*MEMORY, refusing.check_refuses_a_missing_memory)
    else:
        found += PACKED
    if subject.place == "bidirectional":
        return found
    found += WRITING
    if slot != "model" or not memory:  # a model that reads a source takes no documents
        found += (refusing.check_refuses_documents_with_a_cache,)
    return (*found, counting.check_counts_its_cache) if slot in ("mixer", "model") else found
