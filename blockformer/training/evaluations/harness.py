"""Tasks of lm-evaluation-harness."""

import math
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from blockformer.errors import UserError
from blockformer.generation.text_model import TextModel
from blockformer.training.evaluations.base import Better, Evaluation, Outcome, Subject
from registry import NonNegative, Positive, register
from registry.errors import nearest


@register("harness")
class Harness(Evaluation):
    """Score a model on tasks of lm-evaluation-harness (EleutherAI), as `blockformer evaluate` does.

    Its figures are `TASK/METRIC`, such as `arc_easy/acc`. The first process scores, and the others wait for it. It
    needs `pip install 'blockformer[evaluation]'`; tasks download their data before training, unless they are on this
    machine.

    Args:
        tasks: Names of tasks of the harness, or of those in `include`.
        include: A folder with task files (YAML) of your own.
        examples: Solved examples before each question (few-shot); null: as the task says.
        limit: Questions of each task; null: all.
        batch_size: Questions in a batch.
    """

    reads = ("include",)

    def __init__(
        self,
        *,
        tasks: tuple[str, ...] = (),
        include: str | None = None,
        examples: NonNegative | None = None,
        limit: Positive | None = None,
        batch_size: Positive = 16,
    ) -> None:
        if not tasks:
            raise UserError("tasks must name at least one task of lm-evaluation-harness, such as [arc_easy]")
        self.tasks, self.include, self.examples, self.limit = tasks, include, examples, limit
        self.batch_size = batch_size
        self._known: dict[str, tuple[str, ...] | None] = {}

    def better(self, figure: str) -> Better:
        task, _, metric = figure.rpartition("/")
        if task not in self.tasks:
            known = nearest(task, self.tasks) or f"known: {', '.join(self.tasks)}"
            raise UserError(f"has no task {task!r}; {known}")
        _, known_tasks = _library()
        higher = known_tasks.higher_is_better(metric.partition(" ")[0])
        if higher is None:
            raise UserError(
                f"has no figure {figure!r}: the harness does not know which values of {metric!r} are better"
            )
        return max if higher else min

    def prepare(self, subject: Subject) -> None:
        (scoring, known_tasks), _ = _library(), subject.tokenizer
        scoring.check_kind(subject.model.kind)
        if subject.rank == 0:
            with redirect_stdout(sys.stderr):  # the harness prints as it goes
                self._known = known_tasks.load_tasks(self.tasks, self._folder, option="")

    def figures(self) -> tuple[str, ...] | None:
        if not self._known or None in (names := [self._known.get(task) for task in self.tasks]):
            return None
        return tuple(f"{task}/{name}" for task, own in zip(self.tasks, names, strict=True) for name in own or ())

    def __call__(self, subject: Subject) -> Outcome:
        found: list[dict[str, float]] = []
        if subject.rank == 0:
            bidirectional = subject.objective.bidirectional_prompt
            model = TextModel(subject.model, subject.tokenizer, bidirectional_prompt=bidirectional)
            settings: dict[str, Any] = {"batch_size": self.batch_size, "examples": self.examples, "limit": self.limit}
            with redirect_stdout(sys.stderr):
                tasks = _library()[0].evaluate(model, self.tasks, include=self._folder, **settings)
            found = [
                {
                    f"{task}/{name}": float(value)
                    for task, figures in tasks.items()
                    for name, value in figures.items()
                    if name != "questions" and "stderr" not in name and math.isfinite(value)
                }
            ]
        (figures,) = subject.gathered(found)
        return Outcome(figures)

    @property
    def _folder(self) -> Path | None:
        return None if self.include is None else Path(self.include)


def _library() -> tuple[ModuleType, ModuleType]:
    """The modules that need the harness: that which scores, and that of the tasks.

    Raises:
        UserError: the harness is not installed.
    """
    try:
        from blockformer.generation import harness, harness_tasks
    except ImportError as error:
        if not (error.name or "").startswith(("lm_eval", "datasets")):
            raise
        raise UserError("the harness is not installed: pip install 'blockformer[evaluation]'") from None
    return harness, harness_tasks
