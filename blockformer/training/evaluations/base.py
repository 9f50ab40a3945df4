"""The contract of an evaluation: what it measures of a model while the model is trained."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from blockformer.data.tokenizer import Tokenizer
from blockformer.errors import UserError
from blockformer.training.objectives import Objective
from blocks.models.base import Model
from registry import Block, Slot, entry_of

if TYPE_CHECKING:
    from blockformer.data.module import TextData  # which loads Lightning

T = TypeVar("T")
COMMON = ("type", "every")
"""Settings that every evaluation has."""
Better = Callable[[float, float], float]
"""`min` or `max`: picks the better of two values of a figure."""


@dataclass(frozen=True)
class Subject:
    """The model that is evaluated, and what it is trained on.

    Attributes:
        model: in evaluation mode, with the mean of its weights where there is one (`optimizer.ema`).
        data: the data of the run.
        objective: what it is trained with.
        rank: index of this process among those that share the work.
        world: their number; each has the whole model.
    """

    model: Model
    data: "TextData"
    objective: Objective
    rank: int = 0
    world: int = 1

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the data.

        Raises:
            UserError: there is none, because the token ids are not text.
        """
        if (found := self.data.tokenizer) is None:
            raise UserError(f"the token ids of dataset {self.data.dataset} are not text")
        return found

    def gathered(self, rows: Sequence[T]) -> list[T]:
        """The rows of all processes, in the order of the processes; each has to call this."""
        parts: list[Any] = [None] * self.world
        if self.world > 1:
            dist.all_gather_object(parts, list(rows))
        else:
            parts = [rows]
        return [row for part in parts for row in part]


@dataclass(frozen=True)
class Outcome:
    """What an evaluation has found.

    Attributes:
        figures: by name; logged as `eval/NAME OF THE EVALUATION/NAME OF THE FIGURE`. The same in all processes.
        texts: rows of named texts, such as what the model has generated, which are written into the run's folder.
    """

    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    texts: Sequence[Mapping[str, str]] = ()


class Evaluation(Block, ABC):
    """Measures a model in validations while it is trained.

    The constructor's parameters are options of `blockformer fit`, such as `--evaluations.LABEL.rows`.

    Attributes:
        reads: parameters that name what is read, such as a folder; they are never taken from a checkpoint.
    """

    slot = Slot(
        "evaluation",
        "Measures a model in validations while it is trained.",
        parent_arguments=(),
        option="evaluations.LABEL.type",
        reserved=frozenset(COMMON),
    )
    reads: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name under which it is registered."""
        return entry_of(type(self)).name

    @abstractmethod
    def better(self, figure: str) -> Better:
        """Which values of one of its figures are better.

        Raises:
            UserError: it has no such figure; the message is a clause, such as "has no figure 'blue'; ...".
        """

    @abstractmethod
    def prepare(self, subject: Subject) -> None:
        """Check that it can be done, and get ready what it needs; called in each process, before training.

        Args:
            subject: the model has no weights yet.

        Raises:
            UserError: it cannot; the message names the parameter, if it is one, and the remedy.
        """

    def figures(self) -> Sequence[str] | None:
        """The names of its figures, as far as they are known after :meth:`prepare`; None: they are not.

        A run that asks for another one, as `run.monitor`, is refused before it begins.
        """
        return None

    @abstractmethod
    def __call__(self, subject: Subject) -> Outcome:
        """Measure; called in all processes at the same step.

        The random states are restored afterwards.
        """
