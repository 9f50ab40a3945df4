"""An evaluation gives figures that it knows, the same each time, and leaves the model as it is."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from blockformer.assembly.builder import build
from blockformer.conformance.block_case import BlockCase, NotApplicable
from blockformer.conformance.components.examples import LENGTH, TEXTS, made, own_cache
from blockformer.data.module import TextData
from blockformer.errors import UserError
from blockformer.training.evaluations import Evaluation, Outcome, Subject
from blockformer.training.objectives import objective_for

KINDS = {
    "encoder_decoder": ("pairs", "\n".join(f"{one}\t{one[::-1]}" for one in TEXTS)),
    "decoder_only": ("text", "\n\n".join(TEXTS)),
    "encoder_only": ("text", "\n\n".join(TEXTS)),
}
"""For each kind of model a dataset, and the content of its file."""


def check_figures_are_known_numbers(case: BlockCase) -> None:
    """Each figure is a finite number, `better` knows which of two values is better, and texts are texts."""
    with _prepared(case) as (evaluation, subject):
        outcome = _outcome(evaluation, subject)
        known = evaluation.figures()
        for name, value in outcome.figures.items():
            assert math.isfinite(value), f"the figure {name} is {value}"
            assert evaluation.better(name)(1.0, 2.0) in (1.0, 2.0), f"better({name!r}) picks neither of two values"
            assert known is None or name in known, f"figures leaves out {name}"
        strays = [one for row in outcome.texts for one in row.items() if not all(isinstance(part, str) for part in one)]
        assert not strays, f"a row of texts has {strays[0]!r}"
        assert outcome.figures or outcome.texts, "it gives neither figures nor texts"


def check_an_unknown_figure_is_refused(case: BlockCase) -> None:
    """`better` refuses a figure that it does not have, in one line."""
    evaluation, said = made(case, Evaluation), None
    try:
        evaluation.better("no such figure")
    except UserError as error:
        said = str(error)
    assert said, "better('no such figure') raises no UserError with a message"
    assert "\n" not in said, f"the error has several lines: {said}"


def check_measures_the_same_again(case: BlockCase) -> None:
    """With the same random states it finds the same, and leaves the model as it is, in evaluation mode."""
    with _prepared(case) as (evaluation, subject):
        weights = {name: one.clone() for name, one in subject.model.state_dict().items()}
        first, again = (_outcome(evaluation, subject) for _ in range(2))
        assert first == again, "it finds something else the second time"
        assert not subject.model.training, "it leaves the model in training mode"
        changed = [name for name, one in subject.model.state_dict().items() if not torch.equal(one, weights[name])]
        assert not changed, f"it changes {', '.join(changed[:5])}"


@contextmanager
def _prepared(case: BlockCase) -> Generator[tuple[Evaluation, Subject]]:
    """The evaluation, and the first example model and data that it does not refuse."""
    evaluation, problems = made(case, Evaluation), list[str]()
    with own_cache() as folder:
        for kind in KINDS:
            subject = _subject(kind, Path(folder))
            try:
                evaluation.prepare(subject)
            except UserError as error:
                problems.append(str(error))
                continue
            yield evaluation, subject
            return
    raise NotApplicable(f"it evaluates none of the example models: {problems[0]}")


def _subject(kind: str, folder: Path) -> Subject:
    dataset, content = KINDS[kind]
    (path := folder / f"{kind}.txt").write_text(content, encoding="utf-8")
    recipe: dict[str, Any] = {"type": kind, "dim": 32, "vocab_size": 260, "max_length": 2 * LENGTH}
    recipe |= {one: {"depth": 1} for one in ("encoder", "decoder") if one in kind}
    given = {"tokenizer": "bytes", "length": LENGTH, "batch_size": 4, "validation": 0.3}
    objective = objective_for(kind)
    data = TextData(dataset, files=str(path), objective=objective, **given)
    return Subject(build(recipe, seed=0).eval(), data, objective)


def _outcome(evaluation: Evaluation, subject: Subject) -> Outcome:
    torch.manual_seed(0)
    with torch.inference_mode():
        return evaluation(subject)
