"""The setting `evaluations`: evaluations by labels that the user chooses."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from blockformer.errors import UserError
from blockformer.option_groups import OptionGroup
from blockformer.training.evaluations.base import COMMON, Better, Evaluation, Subject
from registry import entries
from registry.errors import nearest, quoted
from registry.text import shortened

FIGURE = re.compile(r"eval/([A-Za-z0-9_-]+)/(.+)")
"""The figure of an evaluation, such as `eval/translations/bleu`: its label and the name of the figure."""
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,40}")


@dataclass(frozen=True)
class Planned:
    """An evaluation of a run.

    Attributes:
        evaluation: what is measured.
        every: optimizer steps between two evaluations; None: each validation.
    """

    evaluation: Evaluation
    every: int | None = None

    def is_due(self, step: int, before: int) -> bool:
        """Whether it belongs to the validation of a step: the first one from each multiple of `every` on.

        Args:
            step: of the validation.
            before: the step of the validation before; -1: there was none.
        """
        return self.every is None or step // self.every > max(before, 0) // self.every


def evaluations_of(given: Any) -> dict[str, Planned]:
    """The evaluations that the setting describes, by label.

    Args:
        given: `{label: {type: NAME, every: STEPS, parameter: value}}`; None: none.

    Raises:
        UserError: something is wrong with it; all problems are named, each with the option.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise UserError(
            f"evaluations must map labels to evaluations, such as {{greedy: {{type: generation}}}}, not {quoted(given)}"
        )
    found, problems = dict[str, Planned](), list[str]()
    for label, settings in given.items():
        try:
            found[label] = _planned(label, settings)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("; ".join(problems))
    return found


def _planned(label: Any, settings: Any) -> Planned:
    if not isinstance(label, str) or not _LABEL.fullmatch(label):
        raise UserError(f"evaluations: {label!r} cannot name an evaluation: use at most 40 letters, digits, - and _")
    where = f"evaluations.{label}"
    if not isinstance(settings, Mapping) or settings.get("type") is None:
        known = ", ".join(entries(Evaluation.slot.name))
        raise UserError(f"{where} needs a type, such as {{type: generation}}; known: {known}")
    every = settings.get("every")
    if every is not None and (type(every) is not int or every < 1):
        raise UserError(f"{where}.every must be a number of steps from 1, not {quoted(every)}")
    group = OptionGroup(where, {"type": Evaluation.slot.name}, COMMON, UserError)
    own = {key: value for key, value in settings.items() if key not in COMMON}
    try:
        made = group.make({"type": settings["type"]}, own)["type"]
    except UserError as error:  # of an option, which names the evaluation, or of the evaluation, which does not know it
        raise error if str(error).startswith(where) else UserError(f"{where}: {error}") from None
    return Planned(cast("Evaluation", made), every)


def better_of(figure: str, planned: Mapping[str, Planned]) -> Better:
    """Which values of a figure such as `eval/translations/bleu` are better.

    Raises:
        UserError: no evaluation has it; the message begins with the figure.
    """
    found = FIGURE.fullmatch(figure)
    if found is None:
        raise UserError(f"{figure}: the figure of an evaluation is eval/LABEL/FIGURE, such as eval/greedy/exact_match")
    label, name = found.groups()
    if label not in planned:
        known = nearest(label, planned) or (f"known: {', '.join(planned)}" if planned else "the run has none")
        raise UserError(f"{figure}: there is no evaluation {label!r}; {known}")
    try:
        return planned[label].evaluation.better(name)
    except UserError as error:
        raise UserError(f"{figure}: evaluations.{label} {error}") from None


def prepare(planned: Mapping[str, Planned], subject: Subject, monitor: str | None = None) -> None:
    """Check that the evaluations of a run can be done, and let them get ready what they need.

    Args:
        planned: the evaluations by label.
        subject: the model has no weights yet.
        monitor: the figure that decides which validation is the best; None: it is not checked.

    Raises:
        UserError: one cannot, or gives no such figure; the message begins with the option.
    """
    if not planned:
        return
    from blockformer.data.module import TextData  # which loads Lightning

    if not isinstance(subject.data, TextData):
        raise UserError("evaluations need the data of `blockformer fit`, and this run has a data module of its own")
    if not len(subject.data.samples("validation")):
        raise UserError("evaluations belong to validations, and the validation split is empty: give data.validation")
    for label, one in planned.items():
        try:
            one.evaluation.prepare(subject)
        except UserError as error:
            raise UserError(f"evaluations.{label}: {error}") from None
    if monitor is not None and (found := FIGURE.fullmatch(monitor)) is not None and found[1] in planned:
        label, figure = found.groups()
        known = planned[label].evaluation.figures()
        if known is not None and figure not in known:
            names = shortened(", ".join(known), 300) or "none"
            raise UserError(f"run.monitor {monitor}: evaluations.{label} has no figure {figure!r}; it has {names}")


def check_intervals(planned: Mapping[str, Planned], interval: int) -> None:
    """Check that evaluations fall on validations.

    Args:
        planned: the evaluations.
        interval: optimizer steps between two validations.

    Raises:
        UserError: one does not.
    """
    for label, one in planned.items():
        if one.every is not None and one.every % interval:
            raise UserError(
                f"evaluations.{label}.every {one.every}: evaluations belong to validations, which come every "
                f"{interval} steps: set a multiple of that, or change trainer.val_check_interval"
            )
