"""The options `--objective.*`, and the objective for a kind of model."""

from typing import Any, cast

from blockformer.data.datasets.base import Form
from blockformer.errors import UserError
from blockformer.option_groups import OptionGroup
from blockformer.training.objectives.base import COMMON, Objective, TokenObjective
from registry import entries

OBJECTIVE = OptionGroup("objective", {"type": Objective.slot.name}, COMMON, UserError)
_USUAL = {"decoder_only": "causal_lm", "encoder_only": "masked_lm", "encoder_decoder": "seq2seq"}


class ObjectiveSettings:
    """The objective: the options `--objective.*`.

    Args:
        type: Name of a registered objective; see `blockformer blocks objective`.
        options: The parameters of the objective, such as `mask_rate`.

    Raises:
        UserError: there is no such objective, it has no such option, or a value is wrong; all problems are named.
    """

    def __init__(self, type: str, **options: Any) -> None:
        self.objective: Objective = OBJECTIVE.make({"type": type}, options)["type"]


def default_objective(kind: str) -> str:
    """The name of the objective for a kind of model where none is named.

    Raises:
        UserError: there is none.
    """
    if kind not in _USUAL:
        raise UserError(f"no objective is meant for a {kind} model: name one in objective.type")
    return _USUAL[kind]


def forms_of(name: str) -> tuple[Form, ...]:
    """The forms of data that an objective of this name learns from.

    Raises:
        UserError: there is no such objective.
    """
    return cast("type[Objective]", OBJECTIVE.entry("type", name).block).forms


def objective_for(kind: str) -> TokenObjective:
    """The objective for a kind of model where none is named, with its default options.

    Raises:
        UserError: there is none.
    """
    return cast("TokenObjective", ObjectiveSettings(default_objective(kind)).objective)


def check_kind(name: str, kind: str) -> None:
    """Check that the objective of this name trains this kind of model.

    Raises:
        UserError: it does not, or there is none.
    """
    kinds = cast("type[Objective]", OBJECTIVE.entry("type", name).block).kinds
    if kind not in kinds:
        known = entries(Objective.slot.name).items()
        fitting = [other for other, entry in known if kind in cast("type[Objective]", entry.block).kinds]
        raise UserError(
            f"objective.type {name} trains {' or '.join(kinds)} models, and this one is {kind}: "
            f"use {' or '.join(fitting) or 'another model'}"
        )
