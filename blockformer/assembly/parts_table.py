"""The table of a sharded checkpoint: its files, and of each tensor the pieces."""

import math
from collections.abc import Iterator

import torch
from pydantic import BaseModel, ConfigDict

from blockformer.assembly.checkpoint_schema import Count, MalformedError, short_name
from blockformer.files import is_name

PARTS = "parts"
"""Key of a checkpoint's content under which the folder and the pieces are, and suffix of the folder's name."""
MOST_PIECES = 4096  # of one tensor


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class Piece(_Strict):
    """A part of a tensor: the number of its file, where it begins along each axis, and its shape."""

    file: Count
    offsets: list[Count]
    sizes: list[Count]


class StoredFile(_Strict):
    """A file in the folder: the number that is its name, its size in bytes, and a hash of its records."""

    number: Count
    size: Count
    digest: str


class Stored(_Strict):
    """A tensor: the keys that lead to it, shape, name of its torch type, pieces."""

    place: list[str | int]
    shape: list[Count]
    dtype: str
    pieces: list[Piece]


class Table(_Strict):
    """What a checkpoint has under the key `parts`."""

    folder: str
    files: list[StoredFile]
    tensors: list[Stored]


def check_table(table: Table) -> None:
    """Check that pieces lie in files and make up their tensors.

    Raises:
        MalformedError: they do not.
    """
    if not is_name(table.folder) or not table.folder.endswith(f".{PARTS}"):
        raise MalformedError(f"folder {short_name(table.folder)} is not the name of a folder of parts")
    numbers, size = {file.number for file in table.files}, sum(file.size for file in table.files)
    for stored in table.tensors:
        if problem := next(_problems(stored, numbers, size), None):
            raise MalformedError(f"{short_name('/'.join(map(str, stored.place)))} {problem}")


def _problems(stored: Stored, numbers: set[int], size: int) -> Iterator[str]:
    dtype = getattr(torch, stored.dtype, None)
    if not isinstance(dtype, torch.dtype):
        yield f"is of {short_name(stored.dtype)}, which is no type of tensors"
        return
    if not stored.place or math.prod(stored.shape) * dtype.itemsize > size:
        yield "is larger than the files"
    axes = len(stored.shape)
    if len(stored.pieces) > MOST_PIECES:
        yield f"has more than {MOST_PIECES} pieces"
        return
    for piece in stored.pieces:
        ends = [a + n for a, n in zip(piece.offsets, piece.sizes, strict=False)]
        if not (len(piece.offsets) == len(piece.sizes) == axes) or any(
            a > b for a, b in zip(ends, stored.shape, strict=True)
        ):
            yield "has a piece outside of its shape"
            return
        if piece.file not in numbers:
            yield f"has a piece in {part_name(piece.file)}, which is no file of the checkpoint"
    whole = sum(math.prod(piece.sizes) for piece in stored.pieces) == math.prod(stored.shape)
    if not whole or _overlap(stored.pieces, axes):
        yield "is not made up of its pieces"


def _overlap(pieces: list[Piece], axes: int) -> bool:
    """Whether two pieces overlap. Sorted along one axis, each is compared only with those that begin before it ends."""
    axis = max(range(axes), key=lambda one: len({piece.offsets[one] for piece in pieces}), default=None)
    if axis is None:
        return len(pieces) > 1
    ordered = sorted(pieces, key=lambda piece: piece.offsets[axis])
    for number, piece in enumerate(ordered):
        end = piece.offsets[axis] + piece.sizes[axis]
        for other in ordered[number + 1 :]:
            if other.offsets[axis] >= end:
                break
            if _meet(piece, other):
                return True
    return False


def _meet(a: Piece, b: Piece) -> bool:
    return all(x < y + m and y < x + n for x, n, y, m in zip(a.offsets, a.sizes, b.offsets, b.sizes, strict=True))


def part_name(number: int) -> str:
    """The name of the file of tensors that a process wrote."""
    return f"{number:05}.pt"
