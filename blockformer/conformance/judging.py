"""A whole recipe against the checks that apply to it, some of them on a sample of recipes only."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from blockformer.assembly.builder import check as checked
from blockformer.conformance import computing
from blockformer.conformance.admitting import Admitted
from blockformer.conformance.subject import Subject
from blockformer.conformance.table import Check, checks
from blocks.base import Component
from registry import load_recipe

ALWAYS = frozenset(
    {
        "sees_no_future",
        "sees_no_future_through_the_cache",
        "ignores_padding",
        "ignores_padding_row_by_row",
        "ignores_padding_of_the_memory",
        "survives_rows_of_padding",
        "keeps_documents_apart",
        "takes_one_token",
        "takes_nothing",
        "takes_its_full_length",
        "decodes_token_by_token",
        "decodes_in_chunks",
        "decodes_a_padded_batch",
        "follows_a_beam",
        "counts_its_cache",
        "counts_its_parameters",
        "treats_rows_alone",
        "restores_its_state",
        "comes_back_from_its_canonical_form",
    }
)
"""What can break where blocks meet. All that is not here or among the long ones is left to one recipe in ``OFTEN``."""
LONG = frozenset(
    {
        "backends_agree",
        "compiles",
        "compiles_once_for_all_lengths",
        "drops_out_at_its_rate",
        "drops_out_only_in_training",
        "exports",
        "gradients_are_right",
        "neutral_values_change_nothing",
    }
)
"""What takes as long as all the others together: left to one recipe in ``SELDOM``."""
OFTEN, SELDOM = 8, 100
LEFT_OUT: Mapping[str, str] = {
    "gradients_reach_every_parameter": "one token in a window, or one expert, has the weight 1 whatever its score",
    "sees_itself": "a norm over two channels levels everything",
    "sees_as_far_as_it_says": "a norm over one or two channels levels everything",
    "reads_the_memory": "a norm over two channels levels everything",
    "is_precise_in_float32": "scores in the hundreds round away, and experts change with them",
    "works_in_bfloat16": "scores in the hundreds round away, and experts change with them",
    "trains_in_bfloat16": "scores in the hundreds round away, and experts change with them",
    "initial_values_depend_on_names_alone": "norms, whose weights have one name, start from other constants",
    "learns_a_batch": "a feed-forward of width one, or initial values of size two, may learn too slowly",
}
"""What each block alone passes and whole recipes of extreme sizes need not: by its name, why.

That gradients exist for every parameter is part of other checks, which run.
"""


@dataclass(frozen=True)
class Failure:
    """A check that does not hold, and how that shows."""

    check: str
    error: str


def judged(admitted: Admitted, number: int = 0) -> tuple[int, Failure | None]:
    """Run the checks until one fails.

    Args:
        admitted: the recipe.
        number: of the recipe in its plan, by which checks are left to a sample; with 0 all run.

    Returns:
        How many checks ran, and the failure.
    """
    run, shared = 0, Shared(**vars(admitted.subject))
    for check in applying(admitted.subject, number):
        run += 1
        if failure := failing(check, shared if named(check) in ALWAYS else admitted.subject):
            return run, failure
    return run, None


class Shared(Subject):
    """A subject that is built once for all the checks that leave it as it is."""

    def build(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> Component:
        """As :meth:`Subject.build`, but the same block every time."""
        built: dict[tuple[torch.dtype, int], Component] = self.__dict__.setdefault("_built", {})
        if (dtype, seed) not in built:
            built[dtype, seed] = super().build(dtype, seed)
        return built[dtype, seed].eval()


def applying(subject: Subject, number: int = 0) -> list[Check]:
    """The checks of a whole recipe, of which the plan has many."""
    found = dict.fromkeys([*checks(subject), check_comes_back_from_its_canonical_form, computing.check_backends_agree])
    return [check for check in found if named(check) not in LEFT_OUT and number % _every(named(check)) == 0]


def _every(name: str) -> int:
    """A check runs on one recipe in so many."""
    return 1 if name in ALWAYS else SELDOM if name in LONG else OFTEN


def failing(check: Check, subject: Subject) -> Failure | None:
    """How a check fails, or None: any exception is a failure, whatever it says."""
    try:
        check(subject)
    except Exception as error:
        return Failure(named(check), f"{type(error).__name__}: {error}")
    return None


def named(check: Check) -> str:
    """What reports call a check."""
    return check.__name__.removeprefix("check_")


def check_comes_back_from_its_canonical_form(subject: Subject) -> None:
    """A recipe written out with all its defaults is the same recipe, and builds as large a model."""
    recipe = load_recipe({"type": subject.name, **subject.params})
    again = load_recipe(recipe.dump())
    assert again.hash == recipe.hash, "the canonical form is another recipe"
    assert checked(again).size == checked(recipe).size
