"""Which checks run on a component that is no module, by its slot."""

from collections.abc import Callable, Mapping

from blockformer.conformance.block_case import BlockCase
from blockformer.conformance.checks import construction
from blockformer.conformance.components import datasets, evaluations, objectives, optimizers, schedules, tokenizers
from blockformer.conformance.components.settings import check_settings_make_it_again

Check = Callable[[BlockCase], None]
Checks = tuple[Check, ...]

DOCUMENTED: Checks = (
    construction.check_has_a_docstring,
    construction.check_documents_every_parameter,
    construction.check_cites_its_paper_with_a_year,
    check_settings_make_it_again,
)
BY_SLOT: Mapping[str, Checks] = {
    "dataset": (
        datasets.check_order_is_a_function_of_seed_and_step,
        datasets.check_processes_share_a_batch,
        datasets.check_validation_is_the_same_for_all_seeds,
        datasets.check_no_row_of_validation_is_trained_on,
        datasets.check_rows_fit_their_vocabulary,
        datasets.check_text_is_decided_by_its_key,
        datasets.check_rows_of_a_task_depend_on_nothing_else,
    ),
    "evaluation": (
        evaluations.check_figures_are_known_numbers,
        evaluations.check_an_unknown_figure_is_refused,
        evaluations.check_measures_the_same_again,
    ),
    "objective": (
        objectives.check_batches_are_pure_functions,
        objectives.check_ids_are_in_the_vocabulary,
        objectives.check_counts_its_targets,
        objectives.check_gradients_reach_every_parameter,
        objectives.check_loss_is_the_sum_over_rows,
        objectives.check_scores_the_same_again,
        objectives.check_loss_in_parts_is_the_whole_loss,
        objectives.check_predictions_fit_the_targets,
    ),
    "optimizer": (
        optimizers.check_a_step_changes_every_parameter,
        optimizers.check_leaves_parameters_without_gradients,
        optimizers.check_goes_on_from_its_state,
        optimizers.check_takes_a_closure,
        optimizers.check_keeps_what_it_declares,
        optimizers.check_finds_the_minimum_of_a_bowl,
    ),
    "schedule": (
        schedules.check_factor_is_a_share_of_the_peak,
        schedules.check_factor_is_a_pure_function,
        schedules.check_reads_the_length_only_if_it_says_so,
    ),
    "tokenizer": (
        tokenizers.check_gives_a_text_back,
        tokenizers.check_no_text_gives_a_special_token,
        tokenizers.check_is_the_same_after_it_was_stored,
        tokenizers.check_learns_the_same_again,
        tokenizers.check_many_texts_are_encoded_as_one,
        tokenizers.check_streams_what_it_decodes,
    ),
}
ONCE: frozenset[Check] = frozenset({optimizers.check_finds_the_minimum_of_a_bowl})
"""Checks that run once for a component and not for each of its options."""


def checks_for(case: BlockCase) -> Checks:
    """All checks that apply to a component.

    Raises:
        KeyError: the slot is not one of ours.
    """
    return (*DOCUMENTED, *BY_SLOT[case.slot])
