"""The options `--objective.*`, and the objective for a kind of model."""

from collections.abc import Mapping
from typing import Any, cast

from blockformer.errors import UserError
from blockformer.option_groups import OptionGroup
from blockformer.training.objectives.base import COMMON, Objective, TokenObjective
from blocks.models.base import Model
from registry import entries, entry_of

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


def chosen_objective(name: str, of: Any = None) -> Objective:
    """The objective of this name, with its default options.

    Args:
        name: of a registered objective.
        of: the objective that it wraps, as a name or a mapping; None: its default, or it wraps none.

    Raises:
        UserError: there is no such objective, or it wraps none.
    """
    return ObjectiveSettings(name, **({} if of is None else {"of": of})).objective


def objective_for(kind: str) -> TokenObjective:
    """The objective for a kind of model where none is named, with its default options.

    Raises:
        UserError: there is none.
    """
    return cast("TokenObjective", ObjectiveSettings(default_objective(kind)).objective)


def check_kind(objective: Objective, kind: str, *, pooled: bool = False) -> None:
    """Check that an objective trains this kind of model.

    Args:
        objective: with its options.
        kind: of the model.
        pooled: whether the model's head pools, so that it gives one row of outputs for each text.

    Raises:
        UserError: it does not; of one that wraps another, that other is named.
    """
    inner: Objective | None = getattr(objective, "of", None)
    named = f"objective.type {objective.name}" if inner is None else f"objective.of {inner.name}"
    known = {name: cast("type[Objective]", entry.block) for name, entry in entries(Objective.slot.name).items()}
    fitting = [
        name
        for name, one in known.items()
        if "of" not in entry_of(one).parameters and kind in one.kinds and one.pooled == pooled
    ]
    use = " or ".join(fitting) or "another model"
    if kind not in objective.kinds:
        raise UserError(f"{named} trains {' or '.join(objective.kinds)} models, and this one is {kind}: use {use}")
    if objective.pooled and not pooled:
        raise UserError(
            f"{named} scores one row of outputs for each text, and this model's head gives one for each token: set "
            f"--recipe.head.type pooled, or use {use}"
        )
    if pooled and not objective.pooled:
        raise UserError(
            f"{named} scores predictions of tokens, and this model's head pools them to one row of outputs for each "
            f"text: use {use}, or another head"
        )


def check_model(objective: Objective, model: Model) -> None:
    """Check that an objective trains a model and all of its parts.

    Raises:
        UserError: it trains other kinds of models, or not the extra predictions that the model has or lacks.
    """
    check_kind(objective, model.kind, pooled=model.pooled)
    there = bool(getattr(model, "extra_predictions", ()))
    if there and not objective.trains_extra:
        raise UserError(
            f"the recipe has extra_predictions, which objective.type {objective.name} does not train: use "
            "multi_token_prediction, or set --recipe.extra_predictions '[]'"
        )
    if objective.trains_extra and not there:
        raise UserError(
            f"objective.type {objective.name} trains a recipe's extra_predictions, and this one has none: set "
            "--recipe.extra_predictions '[sequential]' or [parallel], or use causal_lm"
        )


def paths_read(given: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings of an objective that name what it reads.

    Args:
        given: `type`, and perhaps others; without a `type` there are none.

    Raises:
        UserError: there is no such objective.
    """
    name = given.get("type")
    return () if name is None else cast("type[Objective]", OBJECTIVE.entry("type", name).block).reads
