"""Which checks a block has to pass: by its slot, and by where it stands."""

from collections.abc import Callable, Mapping

from blockformer.conformance import (
    building,
    caching,
    compiling,
    computing,
    counting,
    declaring,
    decoding,
    documenting,
    dropping,
    experts,
    gradients,
    initial,
    learning,
    mattering,
    neutral,
    ordering,
    padding,
    reaching,
    refusing,
    repeating,
    saving,
    seeing,
    shaping,
)
from blockformer.conformance.example import looks_at_memory
from blockformer.conformance.subject import Subject

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
    saving.check_keeps_its_names,
    dropping.check_drops_out_at_its_rate,
    neutral.check_neutral_values_change_nothing,
    learning.check_trains_in_bfloat16,
    compiling.check_compiles,
    compiling.check_compiles_once_for_all_lengths,
    compiling.check_exports,
    refusing.check_takes_its_full_length,
    declaring.check_takes_longer_texts,
    mattering.check_reads_what_it_keeps,
)
VECTORS: Checks = (refusing.check_refuses_vectors_of_another_width,)
LONG: frozenset[Check] = frozenset(
    {
        compiling.check_compiles_once_for_all_lengths,
        compiling.check_exports,
        learning.check_learns_a_batch,
    }
)
"""Those that take a second and more each."""
ONCE: frozenset[Check] = LONG | {
    compiling.check_compiles,
    counting.check_counts_its_flops,  # torch counts all of a window's square, and sinks
    mattering.check_reads_what_it_keeps,  # which tries the options itself, and one may make another idle
}
"""Those to run once a block, not for each of its options."""

ALONE: Checks = (seeing.check_treats_each_token_alone, seeing.check_sees_itself)
PLACED: Checks = (padding.check_ignores_padding, padding.check_ignores_padding_row_by_row)
DECODING: Checks = (
    decoding.check_decodes_token_by_token,
    decoding.check_decodes_in_chunks,
    refusing.check_decodes_no_further_than_it_reads,
)
PACKED: Checks = (padding.check_keeps_documents_apart,)
WIRED: Checks = (
    *PLACED,
    padding.check_survives_rows_of_padding,
    counting.check_counts_its_flops,
    refusing.check_refuses_masks_of_another_shape,
    refusing.check_refuses_masks_of_numbers,
    reaching.check_sees_as_far_as_it_says,
)
MEMORY: Checks = (
    seeing.check_reads_the_memory,
    padding.check_ignores_padding_of_the_memory,
    refusing.check_refuses_a_memory_of_other_rows,
)
WRITING: Checks = (
    seeing.check_sees_no_future,
    *DECODING,
    decoding.check_decodes_a_padded_batch,
    decoding.check_follows_a_beam,
    decoding.check_sees_no_future_through_the_cache,
)
SHIFTED: Checks = (ordering.check_shifts_as_it_says,)
KEEPING: Checks = (
    caching.check_counts_its_cache,
    caching.check_keeps_its_cache_small,
    caching.check_keeps_its_cache_as_precise,
    caching.check_begins_anew_with_a_new_cache,
)

BY_SLOT: Mapping[str, Checks] = {
    "activation": (*MODULE, *ALONE, counting.check_counts_its_flops),
    "norm": (*MODULE, *VECTORS, *ALONE, counting.check_counts_its_flops),
    "feedforward": (*MODULE, *VECTORS, *ALONE, counting.check_counts_its_flops, experts.check_stands_for_each_expert),
    "router": (*MODULE, *VECTORS, *ALONE, counting.check_counts_its_flops),
    "transform": (*MODULE, *VECTORS, *ALONE, counting.check_counts_its_flops),
    "head": (*MODULE, *VECTORS, *ALONE, counting.check_counts_its_flops),
    "residual": (*MODULE, *VECTORS, *ALONE, counting.check_counts_its_flops),
    "input_positions": (*MODULE, *VECTORS, *ALONE, *PLACED, *DECODING, *PACKED, *SHIFTED),
    "attention_positions": (*MODULE, *PLACED, *SHIFTED, padding.check_survives_rows_of_padding),
    "embedding": (*MODULE, *ALONE, *PLACED, *DECODING, *PACKED, *SHIFTED),
    "mixer": (*MODULE, *VECTORS, *WIRED, computing.check_backends_agree),
    "layer": (*MODULE, *VECTORS, *WIRED, seeing.check_sees_itself),
    "stack": (*MODULE, *VECTORS, *WIRED, seeing.check_sees_itself),
    "model": (
        *MODULE,
        *WIRED,
        seeing.check_sees_itself,
        counting.check_counts_its_parameters,
        initial.check_starts_as_it_says,
        learning.check_learns_a_batch,
    ),
    "rotary_scaling": WORDS,
    "init": (
        *WORDS,
        initial.check_draws_by_its_generator_alone,
        initial.check_draws_every_value,
        initial.check_draws_as_it_says,
    ),
}
BARE = ("rotary_scaling", "init")  # no modules with a forward


def name_of(check: Check) -> str:
    """What reports call it: ``sees_no_future``."""
    return check.__name__.removeprefix("check_")


def checks(subject: Subject) -> Checks:
    """All that apply to a block at its place, and to what it declares that it can.

    Raises:
        KeyError: the slot is not one of ours.
    """
    return BY_SLOT[subject.slot] if subject.slot in BARE else declaring.as_declared(subject, _of_place(subject))


def _of_place(subject: Subject) -> Checks:
    slot, memory = subject.slot, looks_at_memory(subject)
    found = BY_SLOT[slot]
    if slot not in ("mixer", "layer", "stack", "model", "attention_positions"):
        return found
    if memory:
        found += MEMORY if slot == "model" else (*MEMORY, refusing.check_refuses_a_missing_memory)
    else:
        found += PACKED
    if slot not in ("attention_positions", "model") or (slot == "model" and not memory):
        found += SHIFTED
    if subject.place == "bidirectional":
        return found if slot == "attention_positions" else (*found, ordering.check_knows_no_order_without_positions)
    found += WRITING
    if slot != "model" or not memory:  # a model that reads a source takes no documents
        found += (refusing.check_refuses_documents_with_a_cache,)
    return (*found, *KEEPING) if slot in ("mixer", "model") else found
