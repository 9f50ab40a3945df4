"""Rows of a synthetic task, drawn when they are needed."""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from blockformer.data.datasets.base import Rows, Task
from blockformer.data.randomness import Draws, bits, mixed
from blockformer.data.samples import Batch, EqualRows
from blockformer.errors import DataError
from registry import spec_of

TRAINING_ROWS = 65_536
"""Rows of an epoch; each epoch has new ones."""
EVALUATION_ROWS = 1_000
"""Rows of validation, and of the test."""
_SHARES = 8  # of all rows; one is for validation, one for the test, the others are trained on
_SPLITS = {"validation": (0,), "test": (1,), "train": tuple(range(2, _SHARES))}
_TRIES = 1_000
_KEPT = 2**25  # numbers of 8 bytes; a task draws about one for each token of a row, and for each id that it permutes


class TaskRows:
    """The rows of a task, by split.

    Args:
        task: the task.
        name: of the task.
        length: tokens in a row of training.
        seed: decides the rows of training.

    Raises:
        DataError: the rows are too short for the task.
    """

    tokenizer = None
    extra_tokens: Mapping[str, int] = MappingProxyType({})

    def __init__(self, task: Task, name: str, length: int, seed: int) -> None:
        self.task, self.name, self.length, self.seed = task, name, length, seed
        least = task.least_length
        for option, given in (("length", length), ("evaluation_length", task.evaluation_length)):
            if given is not None and given < least:
                raise DataError(f"data.{option} {given} is too short: {name} needs at least {least} with these options")
        if task.evaluation_length is not None and task.evaluation_length < length:
            raise DataError(
                f"data.evaluation_length {task.evaluation_length} is less than data.length {length}; raise it"
            )

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""
        return self.task.vocab_size

    @property
    def longest(self) -> int:
        """Tokens in the longest row of any split."""
        return self.task.evaluation_length or self.length

    def prepare(self, *, verify: bool) -> None:
        """Do nothing: no row is stored."""

    def facts(self) -> dict[str, Any]:
        """Facts to log: the task's options, and what accuracy guessing reaches and what is possible."""
        options = spec_of(self.task)
        about = {"dataset": self.name, "options": options.dump() if options else {}, "length": self.length}
        return {
            **about,
            "sha256": hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest(),
            "vocab_size": self.vocab_size,
            "chance": self.task.chance,
            "ceiling": self.task.ceiling,
        }

    def notes(self, *splits: str) -> list[str]:
        """What the accuracy is to be compared with."""
        chance, ceiling = self.task.chance, self.task.ceiling
        best = f"guessing reaches {chance:.3g}, and at most {ceiling:.3g} is possible"
        longer = f"; rows have {self.longest} tokens, {self.length} in training" if self.longest > self.length else ""
        return [f"{self.name}: accuracy is that of the answers: {best}{longer}"]

    def check(self, split: str, least: int) -> None:
        """Do nothing: there are always enough rows."""

    def configure(self, objective: Any) -> None:
        """Do nothing: its rows are samples already."""

    def samples(self, split: str) -> "TaskSamples":
        """The rows of a split."""
        return TaskSamples(self, split)


class TaskSamples(EqualRows):
    """The rows of one split of a task. Those of training change each epoch; no seed decides the others.

    A row belongs to the split that a hash of its tokens chooses, and is drawn until it belongs to its own.

    Args:
        rows: the task and its settings.
        split: "train", "validation" or "test".
    """

    def __init__(self, rows: TaskRows, split: str) -> None:
        self._rows, self._split, self._trains = rows, split, split == "train"
        self._length = rows.length if self._trains else rows.longest
        self._weights = bits(0, "split of a row", count=self._length) | np.uint64(1)

    def __len__(self) -> int:
        return TRAINING_ROWS if self._trains else EVALUATION_ROWS

    def batch(self, chosen: NDArray[np.int64], epoch: int) -> Batch:
        """`tokens` and `targets`, (B, T) each."""
        if self._trains:
            tokens, targets = self._drawn(chosen, epoch)
        elif self._is_kept:
            tokens, targets = (part[chosen] for part in self._evaluated)
        else:
            tokens, targets = self._drawn(chosen, 0)
        batch = {"tokens": tokens, "targets": targets, "index": chosen}
        return {name: torch.from_numpy(value) for name, value in batch.items()}

    @property
    def _is_kept(self) -> bool:
        """Whether all rows of an evaluation, and what is drawn for them, are small enough to be drawn at once."""
        return len(self) * (self._length + self._rows.vocab_size) <= _KEPT

    @cached_property
    def _evaluated(self) -> Rows:
        """All rows of an evaluation, drawn once."""
        return self._drawn(np.arange(len(self)), 0)

    def _drawn(self, chosen: NDArray[np.int64], epoch: int) -> Rows:
        """Draw rows, and draw those that belong to another split again.

        Raises:
            DataError: hardly any row belongs to this split.
        """
        shape = len(chosen), self._length
        tokens, targets = np.empty(shape, np.int64), np.empty(shape, np.int64)
        seed, left = self._rows.seed if self._trains else 0, np.arange(len(chosen))
        for attempt in range(_TRIES):
            draws = Draws(seed, f"rows to {self._split}", chosen[left], epoch, attempt)
            new, answers = self._rows.task.rows(draws, self._length, self._rows.length)
            own = np.isin(self._share(new), _SPLITS[self._split])
            tokens[left[own]], targets[left[own]] = new[own], answers[own]
            left = left[~own]
            if not len(left):
                return tokens, targets
        raise DataError(
            f"{self._rows.name}: there are too few different rows of {self._length} tokens to keep some for the "
            f"{self._split} split: raise data.length"
        )

    def _share(self, tokens: NDArray[np.int64]) -> NDArray[np.uint64]:
        """(B,) the share that each row belongs to, by a hash of its tokens."""
        return mixed(((tokens.astype(np.uint64) + np.uint64(1)) * self._weights).sum(axis=1)) % np.uint64(_SHARES)
