"""Every block passes every check that applies to it."""

import pytest
import torch
from torch import nn

from blockformer.conformance import BlockCase, Check, checks_for, parametrize_checks, registered
from blockformer.conformance.block_case import SMALL
from blockformer.conformance.checks.compilation import check_compiles_without_graph_breaks
from blockformer.conformance.checks.effects import check_every_stored_setting_has_an_effect
from blockformer.conformance.table import LONG, WITHOUT_FORWARD, check_name, registered_checks
from blocks.init.width import declared_axes
from registry import entries, slots

SLOW = LONG | {check_compiles_without_graph_breaks, check_every_stored_setting_has_an_effect}


@parametrize_checks(registered("blocks"), without=SLOW)
def test_block(case: BlockCase, check: Check) -> None:
    check(case)


@pytest.mark.slow
@parametrize_checks(registered("blocks"), only=SLOW)
def test_block_at_length(case: BlockCase, check: Check) -> None:
    check(case)


SIZES = {key: SMALL[key] for key in ("dim", "vocab_size", "max_length")}
CLASSIFIER = {"type": "pooled", "pooling": "last", "transform": "dense", "outputs": 3}
POOLED = [
    BlockCase("model", "encoder_only", {**SIZES, "encoder": {"depth": 2}, "head": CLASSIFIER}, "bidirectional"),
    BlockCase("model", "decoder_only", {**SIZES, "decoder": {"depth": 2}, "head": "pooled"}),
]


@parametrize_checks(POOLED, without=SLOW)
def test_model_that_gives_one_row_for_each_text(case: BlockCase, check: Check) -> None:
    check(case)


@pytest.mark.slow
@parametrize_checks(POOLED, only=SLOW)
def test_model_that_gives_one_row_for_each_text_at_length(case: BlockCase, check: Check) -> None:
    check(case)


TOGETHER = [  # options that are right alone and were wrong together
    BlockCase("mixer", "attention", {"window": 2, "chunk": 3}),
    BlockCase("mixer", "latent", {"positions": "alibi", "sinks": True}),
    BlockCase("mixer", "latent", {"positions": "t5", "sinks": True}, "bidirectional"),
    BlockCase("layer", "parallel", {"mixer": "none", "feedforward_norm": "rms"}),
    BlockCase("embedding", "token", {"neighbors": 2, "width": 8}, "bidirectional"),
]


@parametrize_checks(TOGETHER, without=SLOW)
def test_options_together(case: BlockCase, check: Check) -> None:
    check(case)


WITH_PARAMETERS = [  # an adapter's axes are those of its projection
    case for case in registered("blocks") if not case.is_component and case.slot not in ("adapter", *WITHOUT_FORWARD)
]


@pytest.mark.parametrize("case", WITH_PARAMETERS, ids=lambda case: case.id)
def test_a_block_declares_the_axes_of_its_parameters(case: BlockCase) -> None:
    """Without them a model with it cannot start from values that depend on the width."""
    with torch.device("meta"):
        block = case.construct()
    assert isinstance(block, nn.Module)
    assert {name for name, _ in block.named_parameters()} <= set(declared_axes(block))


POINTWISE = {"tokens_are_independent", "each_output_depends_on_its_own_token", "flops_match_torch"}
VECTORS = {*POINTWISE, "refuses_another_width"}
POSITIONS = {"position_shift_has_the_declared_effect", "ignores_padding"}
CONTEXT = {"attends_exactly_its_window", "flops_match_torch", "refuses_float_masks"}
POOLING = {"ignores_padding", "rows_of_padding_give_finite_values", "flops_match_torch"}
POOLING |= {"refuses_documents"}
OWN_CHECKS: dict[str, set[str]] = {
    "activation": POINTWISE,
    "adapter": {*VECTORS, "adapter_starts_at_zero", "adapter_equals_its_delta"},
    "norm": VECTORS,
    "feedforward": {*VECTORS, "stacked_experts_match_single_blocks"},
    "router": VECTORS,
    "transform": VECTORS,
    "head": VECTORS,
    "pooling": POOLING,
    "residual": {*VECTORS, "uses_every_stream"},
    "readout": {*VECTORS, "uses_every_stream"},
    "input_positions": {*POSITIONS, "decodes_token_by_token", "packed_documents_are_independent"},
    "attention_positions": {*POSITIONS, "rows_of_padding_give_finite_values"},
    "embedding": {*POSITIONS, "decodes_token_by_token", "packed_documents_are_independent"},
    "key_selector": {*POSITIONS, "rows_of_padding_give_finite_values", "auxiliary_loss_reaches_every_parameter"},
    "lookup": {"ignores_padding", "packed_documents_are_independent", "gives_zero_if_its_outputs_are_zero"},
    "mixer": {*CONTEXT, "backends_agree", "gives_zero_if_its_outputs_are_zero"},
    "layer": {*CONTEXT, "each_output_depends_on_its_own_token"},
    "extra_prediction": {*CONTEXT, "is_causal"},
    "generator": {*CONTEXT, "packed_documents_are_independent"},
    "stack": {*CONTEXT, "each_output_depends_on_its_own_token"},
    "model": {*CONTEXT, "learns_one_batch", "parameters_by_slot_add_up", "model_starts_with_the_declared_deviation"},
    "rotary_scaling": {"documents_every_parameter"},
    "init": {"init_uses_only_its_generator", "init_fills_every_value", "init_draws_the_declared_deviation"},
}
"""What tests the contract of a slot, besides what every module with a forward is tested for."""
MODULES = {"builds_on_the_meta_device", "is_deterministic", "restores_its_state_dict", "returns_the_expected_shape"}
MODULES |= {"gradients_match_finite_differences", "compiles_without_graph_breaks", "exports"}
PLACES = {
    "causal": {"is_causal"},
    "bidirectional": set[str](),
    "cross": {"is_causal", "depends_on_every_memory_token", "refuses_memory_of_another_batch_size"},
}


def names_of(case: BlockCase) -> set[str]:
    return {check_name(check) for check in checks_for(case)}


@pytest.mark.parametrize("slot", slots())
def test_every_block_has_the_checks_of_its_slot(slot: str) -> None:
    cases = [case for case in registered("blocks") if case.slot == slot]
    assert cases, f"no block of slot {slot} is checked"
    for case in cases:
        if getattr(entries(slot)[case.name].block, "reuses", False):
            continue  # it is run after another layer
        capabilities = entries(slot)[case.name].block.capabilities
        wanted = OWN_CHECKS["pooling" if case.pools else slot] - (
            set() if capabilities.padding else {"ignores_padding"}
        )
        wanted |= set() if slot in WITHOUT_FORWARD else MODULES
        wanted |= PLACES[case.place] if slot in ("mixer", "layer", "stack", "model") else set()
        assert wanted <= names_of(case), f"{case.id} lacks {sorted(wanted - names_of(case))}"


def test_every_check_applies_to_some_block() -> None:
    applied = set[str]().union(*(names_of(case) for case in registered("blocks")))
    unused = {check_name(check) for check in registered_checks()} - applied
    assert unused <= {f"refuses_{what}" for what in ("padding", "documents", "a_cache", "an_invalidated_cache")}
