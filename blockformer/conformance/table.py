"""Which checks run on a block: by its slot, its place, and the capabilities that it declares."""

from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType

import torch

from blockformer.conformance.block_case import BlockCase
from blockformer.conformance.checks import (
    adapters,
    caching,
    capabilities,
    compilation,
    construction,
    effects,
    initialisation,
    recording,
    shapes,
    streams,
    training,
    visibility,
)
from blockformer.conformance.example import has_memory
from registry import ABILITIES, Ability

Check = Callable[[BlockCase], None]
Checks = tuple[Check, ...]

DOCUMENTED: Checks = (
    construction.check_builds_from_its_name,
    construction.check_has_a_docstring,
    construction.check_documents_every_parameter,
    construction.check_cites_its_paper_with_a_year,
)
MODULE: Checks = (
    *DOCUMENTED,
    construction.check_builds_on_the_meta_device,
    construction.check_registers_every_tensor_as_a_parameter,
    construction.check_computes_the_same_when_built_on_meta,
    construction.check_is_deterministic,
    construction.check_restores_its_state_dict,
    construction.check_copies_are_independent,
    construction.check_state_dict_has_each_tensor_once,
    construction.check_parameter_names_do_not_change,
    initialisation.check_initial_values_depend_on_seed_and_name_only,
    shapes.check_returns_the_expected_shape,
    shapes.check_returns_the_input_dtype,
    shapes.check_float32_matches_float64,
    shapes.check_bfloat16_matches_float64,
    shapes.check_accepts_one_token,
    shapes.check_accepts_empty_inputs,
    shapes.check_accepts_max_length,
    shapes.check_accepts_more_than_max_length,
    shapes.check_does_not_modify_its_inputs,
    visibility.check_rows_are_independent,
    training.check_gradients_reach_every_parameter,
    training.check_gradients_match_finite_differences,
    training.check_zero_inputs_give_finite_gradients,
    training.check_bfloat16_gradients_match_float64,
    training.check_activation_checkpointing_changes_nothing,
    training.check_training_equals_evaluation_without_dropout,
    training.check_dropout_acts_only_in_training,
    training.check_dropout_has_its_rate,
    compilation.check_compiles_without_graph_breaks,
    compilation.check_compiles_once_for_all_lengths,
    compilation.check_exports,
    adapters.check_projections_take_adapters,
    recording.check_records_what_it_declares,
    recording.check_recording_changes_nothing,
    effects.check_no_op_values_change_nothing,
    effects.check_every_stored_setting_has_an_effect,
)
TOKENWISE: Checks = (visibility.check_tokens_are_independent, visibility.check_each_output_depends_on_its_own_token)
PADDING: Checks = (visibility.check_ignores_padding, visibility.check_ignores_padding_of_each_row)
DOCUMENTS: Checks = (visibility.check_packed_documents_are_independent,)
PREFIX: Checks = (visibility.check_prefix_depends_on_all_of_itself, caching.check_decodes_after_a_prefix)
POSITIONS: Checks = (visibility.check_position_shift_has_the_declared_effect,)
CONTEXT: Checks = (
    *PADDING,
    visibility.check_rows_of_padding_give_finite_values,
    visibility.check_attends_exactly_its_window,
    construction.check_flops_match_torch,
    capabilities.check_refuses_masks_of_another_shape,
    capabilities.check_refuses_float_masks,
)
MEMORY: Checks = (
    visibility.check_depends_on_every_memory_token,
    visibility.check_ignores_memory_padding,
    capabilities.check_refuses_memory_of_another_batch_size,
)
DECODING: Checks = (
    caching.check_decodes_token_by_token,
    caching.check_decodes_in_chunks,
    caching.check_decoding_has_the_same_length_limit,
)
CAUSAL: Checks = (
    visibility.check_is_causal,
    *DECODING,
    caching.check_decodes_a_padded_batch,
    caching.check_decodes_after_reordering_the_cache,
    caching.check_is_causal_with_a_cache,
)
CACHE: Checks = (
    caching.check_cache_size_is_as_declared,
    caching.check_cache_takes_at_most_twice_its_size,
    caching.check_cache_keeps_dtype_and_device,
    caching.check_new_cache_starts_empty,
)
OF_TOKENS: frozenset[Check] = frozenset(
    {
        *TOKENWISE,
        visibility.check_attends_exactly_its_window,
        visibility.check_token_order_matters_only_if_declared,
        *CAUSAL,
        *CACHE,
        *PREFIX,
        capabilities.check_refuses_another_width,
        training.check_learns_one_batch,
    }
)
"""Checks of what single tokens give, which are left out where a text gives one row."""
VECTORS: Checks = (*MODULE, capabilities.check_refuses_another_width)
POINTWISE: Checks = (*VECTORS, *TOKENWISE, construction.check_flops_match_torch)
SUBLAYER: Checks = (initialisation.check_gives_zero_if_its_outputs_are_zero,)
ATTENDING: Checks = (compilation.check_backends_agree, capabilities.check_declares_the_positions_that_it_applies)
POOLING: Checks = (
    *MODULE,
    *PADDING,
    visibility.check_rows_of_padding_give_finite_values,
    construction.check_flops_match_torch,
    *DOCUMENTS,
    *DECODING,
)

BY_SLOT: Mapping[str, Checks] = {
    "activation": (*MODULE, *TOKENWISE, construction.check_flops_match_torch),
    "adapter": (*POINTWISE, adapters.check_adapter_starts_at_zero, adapters.check_adapter_equals_its_delta),
    "norm": (*POINTWISE, shapes.check_normalises_each_head_with_its_own_weights),
    "feedforward": (*POINTWISE, *SUBLAYER, compilation.check_stacked_experts_match_single_blocks),
    "router": POINTWISE,
    "transform": POINTWISE,
    "head": POINTWISE,
    "pooling": POOLING,
    "residual": (*POINTWISE, streams.check_uses_every_stream),
    "readout": (*POINTWISE, streams.check_uses_every_stream),
    "input_positions": (*VECTORS, *TOKENWISE, *PADDING, *DECODING, *DOCUMENTS, *POSITIONS),
    "attention_positions": (*MODULE, *PADDING, *POSITIONS, visibility.check_rows_of_padding_give_finite_values),
    "embedding": (*MODULE, *TOKENWISE, *PADDING, *DECODING, *DOCUMENTS, *POSITIONS),
    "key_selector": (
        *(check for check in VECTORS if check is not shapes.check_bfloat16_matches_float64),  # it may choose otherwise
        *PADDING,
        visibility.check_rows_of_padding_give_finite_values,
        effects.check_auxiliary_loss_reaches_every_parameter,
    ),
    "mixer": (*VECTORS, *CONTEXT, *SUBLAYER, *ATTENDING),
    "lookup": (*VECTORS, *PADDING, *DOCUMENTS, construction.check_flops_match_torch),
    "layer": (*VECTORS, *CONTEXT, visibility.check_each_output_depends_on_its_own_token),
    "generator": (*VECTORS, *CONTEXT, *DOCUMENTS),
    "extra_prediction": (*VECTORS, *CONTEXT, visibility.check_is_causal),
    "stack": (*VECTORS, *CONTEXT, visibility.check_each_output_depends_on_its_own_token),
    "model": (
        *MODULE,
        *CONTEXT,
        visibility.check_each_output_depends_on_its_own_token,
        construction.check_parameters_by_slot_add_up,
        construction.check_hidden_states_give_the_logits,
        initialisation.check_model_starts_with_the_declared_deviation,
        training.check_learns_one_batch,
    ),
    "rotary_scaling": DOCUMENTED,
    "init": (
        *DOCUMENTED,
        initialisation.check_init_uses_only_its_generator,
        initialisation.check_init_fills_every_value,
        initialisation.check_init_draws_the_declared_deviation,
    ),
}
WITHOUT_FORWARD = ("rotary_scaling", "init")

LONG: frozenset[Check] = frozenset(
    {
        compilation.check_compiles_once_for_all_lengths,
        compilation.check_exports,
        training.check_learns_one_batch,
    }
)
"""Checks that take a second or more each."""
ONCE: frozenset[Check] = LONG | {
    compilation.check_compiles_without_graph_breaks,
    construction.check_flops_match_torch,  # torch counts the whole square of a window, and sinks
    effects.check_every_stored_setting_has_an_effect,  # tries the options itself; one may make another unused
}
"""Checks that run once for a block and not for each of its options."""

REQUIRES: Mapping[Ability, Checks] = {
    "padding": (
        *PADDING,
        visibility.check_ignores_memory_padding,
        visibility.check_rows_of_padding_give_finite_values,
        shapes.check_does_not_modify_its_inputs,
        caching.check_decodes_a_padded_batch,
    ),
    "documents": (*DOCUMENTS, capabilities.check_refuses_documents_with_a_cache),
    "prefix": PREFIX,
    "cache": (
        *DECODING,
        caching.check_decodes_after_a_prefix,
        caching.check_decodes_a_padded_batch,
        caching.check_decodes_after_reordering_the_cache,
        caching.check_is_causal_with_a_cache,
        *CACHE,
        capabilities.check_refuses_documents_with_a_cache,
    ),
    "bfloat16": (shapes.check_bfloat16_matches_float64, training.check_bfloat16_gradients_match_float64),
    "any_length": (shapes.check_accepts_more_than_max_length,),
}
"""Checks that run only if the block declares the capability."""
WITHOUT: Mapping[Ability, Check] = {
    "padding": capabilities.check_refuses_padding,
    "documents": capabilities.check_refuses_documents,
    "prefix": capabilities.check_refuses_a_prefix,
    "cache": capabilities.check_refuses_a_cache,
    "any_length": capabilities.check_refuses_more_than_max_length,
}
"""The check that runs instead, if the block does not declare the capability."""


def check_name(check: Check) -> str:
    """The name of a check in reports: ``is_causal``."""
    return check.__name__.removeprefix("check_")


def registered_checks() -> frozenset[Check]:
    """All checks of the suite."""
    slots = (check for checks in BY_SLOT.values() for check in checks)
    others = (
        visibility.check_token_order_matters_only_if_declared,
        capabilities.check_refuses_missing_memory,
        caching.check_refuses_an_invalidated_cache,
    )
    return frozenset((*slots, *CAUSAL, *CACHE, *MEMORY, *others, *WITHOUT.values(), *REQUIRES["documents"], *PREFIX))


def checks_for(case: BlockCase) -> Checks:
    """All checks that apply to a block at its place, with the capabilities that it declares.

    Raises:
        KeyError: the slot is not one of ours.
    """
    if case.is_component:
        return components().checks_for(case)
    if case.slot in WITHOUT_FORWARD:
        return BY_SLOT[case.slot]
    if case.slot == "key_selector" and getattr(case.spec.entry.block, "reuses", False):
        return DOCUMENTED  # it is run after another layer
    slot = "pooling" if case.slot == "head" and case.pools else case.slot
    found = (*BY_SLOT[slot], *_checks_of_place(case))
    with torch.device("meta"):
        block = case.construct()
    missing: list[Ability] = [ability for ability in ABILITIES if not block.allows(ability)]
    removed = {check for ability in missing for check in REQUIRES[ability]} | (OF_TOKENS if case.pools else set())
    removed |= {training.check_learns_one_batch} if case.per_token else set()
    if case.slot == "embedding" and case.place == "bidirectional":  # it may read the tokens beside each
        removed |= {*DECODING, visibility.check_tokens_are_independent}
    instead = [WITHOUT[a] for a in missing if a in WITHOUT and not set(REQUIRES[a]).isdisjoint(found)]
    if any(caching.invalidating_lengths(block)) and set(REQUIRES["cache"]) & set(found) - removed:
        removed |= set(REQUIRES["cache"])
        instead.append(caching.check_refuses_an_invalidated_cache)
    return (*(check for check in found if check not in removed), *instead)


def components() -> ModuleType:
    """The table of the checks of components that are no modules; loads the trainer, which takes seconds."""
    return import_module("blockformer.conformance.components.table")


def runs_once(case: BlockCase, check: Check) -> bool:
    """Whether a check runs once for a block and not for each of its options."""
    return check in (components().ONCE if case.is_component else ONCE)


def _checks_of_place(case: BlockCase) -> Checks:
    """The checks that depend on whether the block is causal and whether it attends to a memory."""
    slot, memory = case.slot, has_memory(case)
    if slot not in ("mixer", "layer", "stack", "model", "attention_positions", "key_selector"):
        return ()
    found = MEMORY if memory else DOCUMENTS
    if memory and slot != "model":
        found += (capabilities.check_refuses_missing_memory,)
    if slot != "attention_positions" and not (slot == "model" and memory):
        found += POSITIONS
    if case.place == "bidirectional":
        order = (visibility.check_token_order_matters_only_if_declared,)
        return found if slot == "attention_positions" else (*found, *order)
    found += CAUSAL
    if slot != "model" or not memory:  # an encoder-decoder takes no documents
        found += (capabilities.check_refuses_documents_with_a_cache,)
    if slot in ("mixer", "layer", "stack", "model") and not memory:
        found += PREFIX
    return (*found, *CACHE) if slot in ("mixer", "model") else found
