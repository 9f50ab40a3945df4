"""Many token sequences in memory-mapped files, which all processes of a machine share."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import numpy as np
from numpy.typing import NDArray

SHARD = 2**30
"""Bytes of a file at most."""
_AT_ONCE = 2**20  # offsets
_TOKENS, _OFFSETS = "{name}.tokens.{number}.{kind}", "{name}.offsets.int64"
_KINDS = ("uint16", "uint32")
_LABELS = "{name}.labels.float64"


class Shards:
    """Tokens of several arrays as if they were one, which is read where it is asked for.

    Args:
        arrays: the arrays, of any lengths.
    """

    def __init__(self, arrays: list[NDArray[Any]]) -> None:
        self._arrays = arrays
        self._ends = np.cumsum([len(array) for array in arrays], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, where: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tokens at these places, of any shape."""
        if len(self._arrays) == 1:
            return self._arrays[0][where].astype(np.int64)
        number = np.searchsorted(self._ends, where, side="right")
        found = np.empty(where.shape, np.int64)
        for one in np.unique(number):
            here = number == one
            found[here] = self._arrays[one][where[here] - (self._ends[one] - len(self._arrays[one]))]
        return found


@dataclass(frozen=True)
class Sequences:
    """Concatenated token sequences.

    Args:
        flat: (N,) all tokens.
        offsets: (n + 1,) start of each sequence in `flat`, and N.
    """

    flat: Shards
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.int64]:
        return self.flat[np.arange(self.offsets[index], self.offsets[index + 1])]

    def lengths(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """(B,) number of tokens of each of the chosen sequences."""
        return self.offsets[chosen + 1] - self.offsets[chosen]

    def bounds(self) -> Iterator[NDArray[np.int64]]:
        """The offsets in parts; each but the first begins with the last one of the part before."""
        return (self.offsets[start : start + _AT_ONCE + 1] for start in range(0, len(self), _AT_ONCE))

    def padded(self, chosen: NDArray[np.int64], pad: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The chosen sequences, padded on the right to (B, T), and the (B, T) mask that is True at tokens."""
        return gather(self.flat, self.offsets[chosen], self.lengths(chosen), pad)

    @classmethod
    def open(cls, folder: Path, name: str) -> "Sequences":
        """Memory-map the files of a :class:`SequenceWriter`."""
        offsets = _mapped(folder / _OFFSETS.format(name=name), "int64")
        found = [
            [_mapped(path, kind) for path in sorted(folder.glob(_TOKENS.format(name=name, number="*", kind=kind)))]
            for kind in _KINDS
        ]
        return cls(Shards(found[0] or found[1]), offsets)


class SequenceWriter:
    """Writes token sequences one after another, into files of at most `SHARD` bytes and one of their offsets.

    The files are closed at the end of the `with` block at the latest, also after an error.

    Args:
        folder: where to write.
        name: begins the names of the files.
        vocab_size: number of token ids, which decides how many bytes one takes.
    """

    def __init__(self, folder: Path, name: str, vocab_size: int) -> None:
        self._folder, self._name = folder, name
        self._kind = np.dtype(_KINDS[vocab_size > 2**16])
        self._shard, self._left, self._shards = cast("BinaryIO | None", None), 0, 0
        self._offsets = (folder / _OFFSETS.format(name=name)).open("wb")
        self.count = self.tokens = 0
        try:
            self._offset()
            self._next_shard()
        except BaseException:
            self._offsets.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def write(self, sequences: Iterable[NDArray[Any]]) -> None:
        """Append sequences.

        Raises:
            OSError: they cannot be written.
        """
        for sequence in sequences:
            self.count += 1
            self.tokens += len(sequence)
            self._offset()
            data = memoryview(sequence.astype(self._kind).tobytes())
            while len(data):
                if not self._left:
                    self._next_shard()
                assert self._shard is not None
                part = data[: self._left]
                self._shard.write(part)
                self._left -= len(part)
                data = data[len(part) :]

    def close(self) -> None:
        """Complete the files.

        Raises:
            OSError: they cannot be written.
        """
        try:
            self._offsets.close()
        finally:
            if self._shard is not None:
                self._shard.close()

    def _offset(self) -> None:
        self._offsets.write(self.tokens.to_bytes(8, "little"))

    def _next_shard(self) -> None:
        if self._shard is not None:
            self._shard.close()
        name = _TOKENS.format(name=self._name, number=f"{self._shards:05d}", kind=self._kind.name)
        self._shard, self._left = (self._folder / name).open("wb"), SHARD - SHARD % self._kind.itemsize
        self._shards += 1


class LabelWriter:
    """Writes a number for each sequence of a name; the file is closed at the end of the `with` block at the latest.

    Args:
        folder: where to write.
        name: of the sequences.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._file = (folder / _LABELS.format(name=name)).open("wb")
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def write(self, labels: Sequence[float]) -> None:
        """Append numbers.

        Raises:
            OSError: they cannot be written.
        """
        self.count += len(labels)
        self._file.write(np.array(labels, np.float64).tobytes())

    def close(self) -> None:
        """Complete the file."""
        self._file.close()


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split of a corpus, which are closed together.

    Args:
        folder: Where they are.
        split: The split.
        vocab_size: Number of token ids.
        opened: Closes them.
    """

    folder: Path
    split: str
    vocab_size: int
    opened: ExitStack

    def sequences(self, name: str = "", vocab_size: int | None = None) -> SequenceWriter:
        """New files of sequences.

        Args:
            name: Of one of several files of the split.
            vocab_size: Number of their ids; None: that of the tokenizer.
        """
        parts = f"{self.split}.{name}" if name else self.split
        return self.opened.enter_context(SequenceWriter(self.folder, parts, vocab_size or self.vocab_size))

    def labels(self) -> LabelWriter:
        """A new file of labels."""
        return self.opened.enter_context(LabelWriter(self.folder, self.split))


def read_labels(folder: Path, name: str) -> NDArray[np.float64]:
    """Memory-map the file of a :class:`LabelWriter`."""
    return _mapped(folder / _LABELS.format(name=name), "float64")


def padded(rows: Sequence[NDArray[np.int64]], fill: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(B, T) the rows, filled up on the right, and where they are not."""
    sizes = np.array([len(row) for row in rows])
    real = np.arange(sizes.max()) < sizes[:, None]
    filled = np.full(real.shape, fill, dtype=np.int64)
    filled[real] = np.concatenate(rows)
    return filled, real


def _mapped(path: Path, kind: str) -> NDArray[Any]:
    """The numbers of a file; an empty one cannot be mapped."""
    return np.memmap(path, kind, mode="r") if path.stat().st_size else np.zeros(0, kind)


def gather(
    flat: Shards, starts: NDArray[np.int64], lengths: NDArray[np.int64], pad: int, width: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Copy slices of a flat array into rows: (B, T) tokens, padded on the right, and the mask that is True at tokens.

    Args:
        flat: (N,) tokens.
        starts: (B,) start of each slice.
        lengths: (B,) length of each slice.
        pad: The padding token.
        width: T; None: the longest slice.
    """
    columns = np.arange(int(lengths.max(initial=0)) if width is None else width)
    real = columns < lengths[:, None]
    where = np.minimum(starts[:, None] + columns, len(flat) - 1)
    return np.where(real, flat[where], pad), real
