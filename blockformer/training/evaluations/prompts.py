"""The prompts and answers of validation rows, and what a model writes after them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from blockformer.errors import UserError
from blockformer.training.evaluations.base import Subject
from blockformer.training.objectives import Prompt


class Numbered(NamedTuple):
    """A validation row.

    Attributes:
        place: batch of the validation, and row in it over all processes.
        prompt: what the model is given, and the answer.
    """

    place: tuple[int, int]
    prompt: Prompt


def check_prompts(subject: Subject) -> None:
    """Check that validation rows are prompts with answers.

    Raises:
        UserError: they are not.
    """
    objective, form = subject.objective, subject.data.form
    if not objective.generates:
        raise UserError(
            f"objective {objective.name} does not generate, so there is nothing to compare with the answers"
        )
    if form not in objective.generates:
        raise UserError(
            f"the {form} of dataset {subject.data.dataset} have no prompts with answers: they need a dataset of "
            f"{' or '.join(objective.generates)}"
        )


def validation_prompts(subject: Subject, rows: int | None) -> Iterator[list[Numbered]]:
    """This process's share of the first validation rows, batch by batch.

    Args:
        subject: the model and the data.
        rows: how many, over all processes; whole batches are read. None: all.
    """
    loader = subject.data.loader("validation", rank=subject.rank, world=subject.world)
    size, read = subject.data.batch_size, 0
    for number, batch in enumerate(loader):
        if rows is not None and read >= rows:
            return
        real = [row for row, index in enumerate(batch["index"].tolist()) if index >= 0]
        places = [(number, row * subject.world + subject.rank) for row in real]
        yield [Numbered(place, subject.objective.prompt(batch, row)) for place, row in zip(places, real, strict=True)]
        read += size


def in_order(rows: Sequence[tuple[tuple[int, int], dict[str, str]]]) -> list[dict[str, str]]:
    """Texts by the place of their rows, as one process would have them."""
    return [texts for _, texts in sorted(rows, key=lambda row: row[0])]
