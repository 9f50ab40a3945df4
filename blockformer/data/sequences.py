"""Many token sequences in one memory-mapped array, which all processes of a machine share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockformer.data.tokenizer import Tokenizer

_AT_ONCE = 2048  # texts; bounds the memory for encoding


@dataclass(frozen=True)
class Sequences:
    """Concatenated token sequences.

    Args:
        flat: (N,) all tokens.
        offsets: (n + 1,) start of each sequence in `flat`, and N.
    """

    flat: NDArray[Any]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[Any]:
        return self.flat[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) number of tokens of each sequence."""
        return np.diff(self.offsets)

    def padded(self, chosen: NDArray[np.int64], pad: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The chosen sequences, padded on the right to (B, T), and the (B, T) mask that is True at tokens."""
        return gather(self.flat, self.offsets[chosen], self.lengths[chosen], pad)

    def only(self, chosen: NDArray[np.bool_]) -> "Sequences":
        """The sequences for which the mask (n,) is True."""
        lengths = self.lengths
        return Sequences(self.flat[np.repeat(chosen, lengths)], np.concatenate(([0], np.cumsum(lengths[chosen]))))

    @classmethod
    def encode(
        cls, texts: Sequence[str], tokenizer: Tokenizer, *, before: int | None = None, after: int | None = None
    ) -> "Sequences":
        """Encode texts, each with a special token before or after it if given."""
        kind = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
        head, tail = (np.array([] if token is None else [token], kind) for token in (before, after))
        parts: list[NDArray[Any]] = []
        for start in range(0, len(texts), _AT_ONCE):
            for ids in tokenizer.encode_many(texts[start : start + _AT_ONCE]):
                parts.append(np.concatenate((head, ids.astype(kind), tail)))
        offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        return cls(np.concatenate(parts) if parts else np.zeros(0, kind), offsets)

    def save(self, folder: Path, name: str) -> None:
        """Write tokens and offsets as two files."""
        np.save(folder / f"{name}.tokens.npy", self.flat)
        np.save(folder / f"{name}.offsets.npy", self.offsets)

    @classmethod
    def open(cls, folder: Path, name: str) -> "Sequences":
        """Memory-map the files of `save`."""
        mode = "r" if (folder / f"{name}.tokens.npy").stat().st_size > 4096 else None  # an empty array cannot be mapped
        return cls(np.load(folder / f"{name}.tokens.npy", mmap_mode=mode), np.load(folder / f"{name}.offsets.npy"))


def gather(
    flat: NDArray[Any], starts: NDArray[np.int64], lengths: NDArray[np.int64], pad: int, width: int | None = None
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
    return np.where(real, flat[where], pad).astype(np.int64), real
