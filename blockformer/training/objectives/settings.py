"""The options `--objective.*`, and the objective for a kind of model."""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from blockformer.errors import UserError
from blockformer.option_groups import OptionGroup
from blockformer.training.objectives.base import COMMON, Objective, TokenObjective
from blocks.base import Head
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


def check_kind(objective: Objective, kind: str, head: type[Head] | None = None) -> None:
    """Check that an objective trains this kind of model, with a head like this.

    Args:
        objective: with its options.
        kind: of the model.
        head: the class of its head; None: one that gives logits of token ids.

    Raises:
        UserError: it does not; of one that wraps another, that other is named.
    """
    inner: Objective | None = getattr(objective, "of", None)
    named = f"objective.type {objective.name}" if inner is None else f"objective.of {inner.name}"
    known = {name: cast("type[Objective]", entry.block) for name, entry in entries(Objective.slot.name).items()}
    outputs = _outputs(head)
    fitting = [
        name
        for name, one in known.items()
        if "of" not in entry_of(one).parameters and kind in one.kinds and _outputs(one) == outputs
    ]
    use = " or ".join(fitting) or "another model"
    if kind not in objective.kinds:
        raise UserError(f"{named} trains {' or '.join(objective.kinds)} models, and this one is {kind}: use {use}")
    if (wanted := _outputs(objective)) == outputs:
        return
    if wanted != "tokens":
        raise UserError(
            f"{named} scores {OUTPUTS[wanted]}, and this model's head gives {OUTPUTS[outputs]}: set "
            f"--recipe.head.type {wanted}, or use {use}"
        )
    raise UserError(
        f"{named} scores predictions of tokens, and this model's head gives {OUTPUTS[outputs]}: use {use}, or another "
        "head"
    )


OUTPUTS = {
    "tokens": "logits of token ids",
    "pooled": "one row of outputs for each text",
    "per_token": "some values for each token",
}
"""What heads give and objectives score, by the name of the head."""


def _outputs(what: Objective | type[Objective] | type[Head] | None) -> str:
    """Which of :data:`OUTPUTS` a head gives, or an objective scores."""
    return next((name for name in ("pooled", "per_token") if getattr(what, name, False)), "tokens")


class _Part(NamedTuple):
    """A part of a model that one objective trains and nothing else runs.

    Attributes:
        objective: which trains it.
        trains: the attribute of objectives that says so.
        values: of the recipe's key, with which a model has it.
        none: the value with which it has none.
        usual: the objective for models without it.
    """

    objective: str
    trains: str
    values: str
    none: str
    usual: str


PARTS = {
    "extra_predictions": _Part(
        "multi_token_prediction", "trains_extra", "'[sequential]' or [parallel]", "'[]'", "causal_lm"
    ),
    "generator": _Part("replaced_token_detection", "trains_generator", "encoder", "null", "masked_lm"),
}
"""By the recipe's key."""


def check_model(objective: Objective, model: Model) -> None:
    """Check that an objective trains a model and all of its parts.

    Raises:
        UserError: it trains other kinds of models, or not the extra predictions or the generator that the model has or
            lacks.
    """
    check_kind(objective, model.kind, type(model.head))
    for key, part in PARTS.items():
        there, trained = bool(getattr(model, key, None)), bool(getattr(objective, part.trains))
        if there and not trained:
            raise UserError(
                f"the recipe has {key}, which objective.type {objective.name} does not train: use {part.objective}, or "
                f"set --recipe.{key} {part.none}"
            )
        if trained and not there:
            raise UserError(
                f"objective.type {objective.name} trains a recipe's {key}, and this one has none: set "
                f"--recipe.{key} {part.values}, or use {part.usual}"
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
