"""Sharded checkpoints: a file with all but the large tensors, and a folder with a file of tensors of each process.

The file names the folder, and of each tensor the pieces: in which file a piece lies, and which part of the tensor it
is. So a process reads what it needs and no more, however many processes wrote the tensor.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile, ZipFile

import torch
from pydantic import ValidationError
from torch import Tensor

from blockformer.assembly.archive import (
    DamagedError,
    LoadError,
    compare_checksums,
    file_version,
    regular_file,
    unpickled,
)
from blockformer.assembly.checkpoint_schema import MalformedError, short_name
from blockformer.assembly.parts_table import PARTS, Stored, Table, check_table, part_name

Place = tuple[str | int, ...]
"""The keys that lead to a tensor in the content of a checkpoint."""


class Parts:
    """The folder of a sharded checkpoint.

    Args:
        index: the file that names the folder.
        table: what it says of the folder, see :func:`checked_table`.
    """

    def __init__(self, index: Path, table: Table) -> None:
        self.index, self.table = index, table
        self.folder = index.parent / table.folder
        self.compared = False  # whether the content of all files has been
        self._open: dict[int, Mapping[str, Any]] = {}  # by their numbers, the pieces in the files that are mapped

    def path(self, number: int) -> Path:
        """The file of this number."""
        return self.folder / part_name(number)

    def verify(self) -> None:
        """Check that the files are there, and are those that were written; their content is not read.

        Raises:
            LoadError: one is missing or another.
        """
        for file in self.table.files:
            path = self.path(file.number)
            if not path.exists():
                raise DamagedError(f"{self.index}: its part {path} is missing")
            if regular_file(path).st_size != file.size or digest(path) != file.digest:
                raise DamagedError(f"{self.index}: its part {path} is truncated, damaged or of another checkpoint")

    def compare(self, rank: int = 0, world: int = 1) -> None:
        """Compare the checksums of the content of the files; of several processes each takes some of them.

        Raises:
            LoadError: a file is not as it was written.
        """
        for file in self.table.files[rank::world]:
            _compared(self.index, self.path(file.number), file_version(self.path(file.number)))

    def tensor(self, number: int, key: str) -> Tensor:
        """A piece, mapped from its file.

        Raises:
            LoadError: the file is damaged.
        """
        path = self.path(number)
        if number not in self._open:
            if not self.compared:
                _compared(self.index, path, file_version(path))
            content = unpickled(path, mmap=True)
            self._open[number] = cast("Mapping[str, Any]", content) if isinstance(content, dict) else {}
        if not isinstance(found := self._open[number].get(key), Tensor):
            raise DamagedError(f"{self.index}: its part {path} lacks {short_name(key)}")
        return found


class StoredTensor(Tensor):
    """A tensor of a sharded checkpoint: shape and type, on the meta device; :meth:`read` reads values."""

    __torch_function__: Any = torch._C._disabled_torch_function_impl  # what is computed from it is a plain tensor
    parts: Parts
    stored: Stored

    @staticmethod
    def of(parts: Parts, stored: Stored) -> "StoredTensor":
        """The tensor that an entry of the table describes."""
        plain = torch.empty(stored.shape, dtype=getattr(torch, stored.dtype), device="meta")
        made = cast("StoredTensor", torch.Tensor._make_subclass(StoredTensor, plain))
        made.parts, made.stored = parts, stored
        return made

    def __deepcopy__(self, memo: Any) -> "StoredTensor":
        return self

    def read(self, offsets: Sequence[int] | None = None, sizes: Sequence[int] | None = None) -> Tensor:
        """A part of the tensor, in main memory.

        Args:
            offsets: where it begins along each axis; None: at 0.
            sizes: its shape; None: that of the whole tensor.

        Raises:
            LoadError: a file is missing or damaged.
        """
        begin = list(offsets if offsets is not None else [0] * self.ndim)
        shape = list(sizes if sizes is not None else self.shape)
        result = torch.empty(shape, dtype=self.dtype)
        for piece in self.stored.pieces:
            low = [max(a, b) for a, b in zip(begin, piece.offsets, strict=True)]
            high = [min(a + n, b + m) for a, n, b, m in zip(begin, shape, piece.offsets, piece.sizes, strict=True)]
            if all(a < b for a, b in zip(low, high, strict=True)):
                found = self.parts.tensor(piece.file, piece_key(self.stored.place, piece.offsets))
                if list(found.shape) != piece.sizes or found.dtype != self.dtype:
                    name = short_name("/".join(map(str, self.stored.place)))
                    path = self.parts.path(piece.file)
                    raise DamagedError(f"{self.parts.index}: its part {path} has a piece of {name} of another shape")
                result[_slices(low, high, begin)] = found[_slices(low, high, piece.offsets)]
        return result


def insert_stored(content: dict[str, Any], index: Path) -> None:
    """Put stored tensors into the content of a checkpoint where its table says so, and :class:`Parts` under its key.

    Raises:
        LoadError: the table is malformed. Whether the files are there is checked by :meth:`Parts.verify`.
    """
    parts = Parts(index, checked_table(index, content[PARTS]))
    for stored in parts.table.tensors:
        *way, last = stored.place
        place: Any = content
        try:
            for key in way:
                place = place[key]
            holder = cast("dict[Any, Any]", place)
            if not isinstance(place, dict | list) or holder[last] is not None:
                raise LookupError
            holder[last] = StoredTensor.of(parts, stored)
        except (LookupError, TypeError):
            name = short_name("/".join(map(str, stored.place)))
            raise LoadError(f"{index}: {PARTS}: there is no place for {name}") from None
    content[PARTS] = parts


def with_values(content: Any) -> Any:
    """The content of a checkpoint with the values of all stored tensors.

    Raises:
        LoadError: a file is missing or damaged.
    """
    if isinstance(content, StoredTensor):
        return content.read()
    if isinstance(content, Mapping):
        return {key: with_values(value) for key, value in content.items()}
    return [with_values(value) for value in content] if isinstance(content, list) else content


def digest(path: Path) -> str:
    """A hash over the names, sizes and checksums of an archive's records, which are read without their content.

    Raises:
        DamagedError: it is no archive.
    """
    try:
        with ZipFile(path) as archive:
            records = [(record.filename, record.file_size, record.CRC) for record in archive.infolist()]
    except (BadZipFile, OSError, ValueError) as error:
        raise DamagedError(f"{path}: is truncated or damaged ({' '.join(str(error).split())[:80]})") from None
    return hashlib.sha256(repr(sorted(records)).encode()).hexdigest()


def piece_key(place: Sequence[str | int], offsets: Sequence[int]) -> str:
    """The name of a piece in its file."""
    return f"{'/'.join(map(str, place))}@{','.join(map(str, offsets))}"


def parts_of(index: Path) -> Parts | None:
    """The parts that a checkpoint has beside it; None: it is one file.

    Raises:
        LoadError: it cannot be read, or what it says of its parts is malformed.
    """
    table = _table(index, file_version(index))
    return None if table is None else Parts(index, table)


@lru_cache(maxsize=256)
def _table(index: Path, version: tuple[int, ...]) -> Table | None:
    compare_checksums(index, lambda name: name.endswith("/data.pkl"))
    content = unpickled(index, mmap=True)
    return checked_table(index, content[PARTS]) if isinstance(content, dict) and PARTS in content else None


def checked_table(index: Path, given: Any) -> Table:
    """What a checkpoint says of its parts.

    Args:
        index: the checkpoint's file.
        given: the table in it, from anyone.

    Raises:
        LoadError: the table is malformed, or pieces do not make up their tensor.
    """
    try:
        table = Table.model_validate(given)
        check_table(table)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(short_name(part) for part in (PARTS, *first["loc"]))
        raise LoadError(f"{index}: {where} is wrong: {first['msg'].lower()}") from None
    except MalformedError as error:
        raise LoadError(f"{index}: {PARTS}: {error}") from None
    return table


@lru_cache(maxsize=4096)
def _compared(index: Path, path: Path, version: tuple[int, ...]) -> None:
    try:
        compare_checksums(path)
    except LoadError as error:
        raise DamagedError(f"{index}: its part {error}") from None


def _slices(low: Sequence[int], high: Sequence[int], origin: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(a - o, b - o) for a, b, o in zip(low, high, origin, strict=True))
