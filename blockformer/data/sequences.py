"""Many token sequences as one memory-mapped array, which all processes of a machine share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockformer.data.tokenizer import Tokenizer

_AT_ONCE = 2048  # texts; bounds the memory that encoding takes


@dataclass(frozen=True)
class Sequences:
    """Token sequences one after the other.

    Args:
        flat: (N,) all tokens.
        offsets: (n + 1,) where each sequence begins, and N.
    """

    flat: NDArray[Any]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[Any]:
        return self.flat[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) tokens of each sequence."""
        return np.diff(self.offsets)

    def padded(self, chosen: NDArray[np.int64], pad: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The chosen sequences as rows that are filled up with `pad`, and where tokens are: (B, T) each."""
        return gather(self.flat, self.offsets[chosen], self.lengths[chosen], pad)

    def only(self, chosen: NDArray[np.bool_]) -> "Sequences":
        """Those sequences that a mask (n,) is true for."""
        lengths = self.lengths
        return Sequences(self.flat[np.repeat(chosen, lengths)], np.concatenate(([0], np.cumsum(lengths[chosen]))))

    @classmethod
    def encode(
        cls, texts: Sequence[str], tokenizer: Tokenizer, *, before: int | None = None, after: int | None = None
    ) -> "Sequences":
        """Encode texts, each between two special tokens if they are given."""
        head, tail = ([] if token is None else [token] for token in (before, after))
        kind = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
        parts: list[NDArray[Any]] = []
        for start in range(0, len(texts), _AT_ONCE):
            for ids in tokenizer.encode_many(texts[start : start + _AT_ONCE]):
                parts.append(np.concatenate((head, ids, tail)).astype(kind))
        offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        return cls(np.concatenate(parts) if parts else np.zeros(0, kind), offsets)

    def save(self, folder: Path, name: str) -> None:
        """Write two files into a folder."""
        np.save(folder / f"{name}.tokens.npy", self.flat)
        np.save(folder / f"{name}.offsets.npy", self.offsets)

    @classmethod
    def open(cls, folder: Path, name: str) -> "Sequences":
        """Map what `save` wrote into memory."""
        mode = "r" if (folder / f"{name}.tokens.npy").stat().st_size > 4096 else None  # nothing cannot be mapped
        return cls(np.load(folder / f"{name}.tokens.npy", mmap_mode=mode), np.load(folder / f"{name}.offsets.npy"))


def gather(
    flat: NDArray[Any], starts: NDArray[np.int64], lengths: NDArray[np.int64], pad: int, width: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Copy stretches of a flat array into rows: (B, T) tokens, filled up with `pad`, and where they are tokens.

    Args:
        flat: (N,) tokens.
        starts: (B,) where each stretch begins.
        lengths: (B,) and how long it is.
        pad: The token to fill up with.
        width: T; None takes the longest stretch.
    """
    columns = np.arange(int(lengths.max(initial=0)) if width is None else width)
    real = columns < lengths[:, None]
    where = np.minimum(starts[:, None] + columns, len(flat) - 1)
    return np.where(real, flat[where], pad).astype(np.int64), real
