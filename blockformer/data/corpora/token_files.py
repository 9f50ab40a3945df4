"""Files of token ids that were made elsewhere: NumPy arrays, files of llm.c, and raw ones as those of nanoGPT."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockformer.data import cache
from blockformer.data.corpora.files import stamp
from blockformer.data.progress import Stage
from blockformer.errors import DataError
from registry.text import shortened

ENDINGS = (".npy", ".bin")
HEADER = 1024
"""Bytes of the header of llm.c: 256 numbers of 4 bytes, of which the first three are magic, version and tokens."""
FORMATS = {20240520: (1, "uint16"), 20240801: (7, "uint32")}
"""Version and type of the ids of the files of llm.c, by magic number (`write_datafile` of its `data_common.py`)."""
_EVALUATION = 20240522
_NPY = b"\x93NUMPY"
_AT_ONCE = 2**22  # ids


@dataclass(frozen=True)
class TokenFile:
    """A file of token ids.

    Args:
        path: The file.
        dtype: Of the ids.
        offset: Bytes before the first one.
        count: How many there are.
    """

    path: Path
    dtype: str
    offset: int
    count: int

    @property
    def size(self) -> int:
        """Bytes of all ids."""
        return self.count * np.dtype(self.dtype).itemsize

    def open(self) -> NDArray[Any]:
        """(count,) the ids, which are read where they are needed."""
        return np.memmap(self.path, self.dtype, mode="r", offset=self.offset, shape=(self.count,))


@dataclass(frozen=True)
class Scan:
    """What is known of a file once all of it has been read.

    Args:
        least: The smallest id.
        largest: The largest id.
        documents: How many ids are the separator of documents.
        sha256: Of the ids, as 4 bytes each.
    """

    least: int
    largest: int
    documents: int
    sha256: str


def recognise(path: Path, dtype: str | None) -> TokenFile:
    """Find out how a file holds its ids.

    Args:
        path: The file.
        dtype: The type of the ids, for a file without a header.

    Raises:
        DataError: It is no file of token ids.
    """
    if path.suffix.lower() not in ENDINGS:
        raise DataError(
            f"{path}: the ending {path.suffix or '(none)'} is not that of token files: {', '.join(ENDINGS)}"
        )
    if not path.is_file():
        raise DataError(f"{path}: is not a regular file; write the ids to a file first")
    with path.open("rb") as stream:
        head = stream.read(HEADER)
    if path.suffix.lower() == ".npy":
        found = _of_numpy(path, head)
    elif len(head) >= 12 and (known := _of_llm_c(path, head)) is not None:
        found = known
    else:
        return _raw(path, dtype)
    if not found.count:
        raise DataError(f"{path}: is empty")
    if dtype is not None and np.dtype(dtype) != np.dtype(found.dtype):
        raise DataError(
            f"{path}: its header says {np.dtype(found.dtype).name}, and data.dtype is {dtype}: leave it out"
        )
    return found


def _of_numpy(path: Path, head: bytes) -> TokenFile:
    if not head.startswith(_NPY):
        raise DataError(f"{path}: has no header of NumPy; if its ids are raw, name it .bin and set --data.dtype")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # of any class: NumPy reads the header as a Python literal
        raise DataError(f"{path}: is no NumPy array that can be read: {shortened(str(error))}") from None
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"{path}: holds {array.dtype} of shape {array.shape}; ids are integers on one axis")
    return TokenFile(path, array.dtype.str, int(getattr(array, "offset", 0)), len(array))


def _of_llm_c(path: Path, head: bytes) -> TokenFile | None:
    """None: the file has no header of llm.c."""
    magic, version, count = np.frombuffer(head[:12], "<i4").tolist()
    if magic == _EVALUATION:
        raise DataError(f"{path}: is a file of questions of llm.c, not of tokens")
    if magic not in FORMATS:
        return None
    if version != FORMATS[magic][0]:
        raise DataError(f"{path}: has version {version} of the format of llm.c; known: {FORMATS[magic][0]}")
    kind = np.dtype(FORMATS[magic][1]).newbyteorder("<")
    if (size := path.stat().st_size) != HEADER + count * kind.itemsize or count < 0:
        there = (size - HEADER) / kind.itemsize
        raise DataError(f"{path}: its header says {count:,} tokens, and it has {there:,.10g}: copy it again")
    return TokenFile(path, kind.str, HEADER, count)


def _raw(path: Path, dtype: str | None) -> TokenFile:
    if dtype is None:
        raise DataError(f"{path}: has no header: set --data.dtype to uint16 or uint32")
    kind, size = np.dtype(dtype).newbyteorder("<"), path.stat().st_size
    if not size:
        raise DataError(f"{path}: is empty")
    if size % kind.itemsize:
        raise DataError(f"{path}: its {size:,} bytes are not a whole number of {dtype}; set another --data.dtype")
    return TokenFile(path, kind.str, 0, size // kind.itemsize)


def scan(file: TokenFile, separator: int | None, stage: Stage) -> Scan:
    """Read a file once; what is found is kept until the file changes.

    Args:
        file: The file.
        separator: The id that separates documents.
        stage: The progress of the reading.

    Raises:
        DataError: The cache cannot be written.
    """

    def build(folder: Path) -> None:
        least, largest, documents, digest = 2**63 - 1, -1, 0, hashlib.sha256()
        for _, part in _parts(file):
            least, largest = min(least, int(part.min())), max(largest, int(part.max()))
            documents += 0 if separator is None else int((part == separator).sum())
            digest.update(part.astype("<u4").tobytes())
            stage.advance(part.nbytes)
        found = {"least": least, "largest": largest, "documents": documents, "sha256": digest.hexdigest()}
        (folder / "scan.json").write_text(json.dumps(found), encoding="utf-8")

    key = {"file": stamp(file.path), "dtype": file.dtype, "offset": file.offset, "separator": separator, "format": 1}
    return Scan(**json.loads((cache.cached("scan", key, build) / "scan.json").read_text(encoding="utf-8")))


def check_ids(file: TokenFile, found: Scan, vocab_size: int) -> None:
    """Check that all ids of a file belong to a vocabulary.

    Raises:
        DataError: One does not; the message has its place.
    """
    if found.least >= 0 and found.largest < vocab_size:
        return
    for start, part in _parts(file):
        if len(outside := np.flatnonzero((part < 0) | (part >= vocab_size))):
            place = int(outside[0])
            raise DataError(
                f"{file.path}, token {start + place + 1:,}: id {int(part[place])} is outside of data.vocab_size "
                f"{vocab_size} (the largest is {found.largest}); raise it, or correct data.dtype or the file"
            )


def _parts(file: TokenFile) -> Iterator[tuple[int, NDArray[Any]]]:
    """The ids of a file in parts, each with its place."""
    ids = file.open()
    return ((start, np.asarray(ids[start : start + _AT_ONCE])) for start in range(0, file.count, _AT_ONCE))


def span(files: Sequence[TokenFile], start: int, end: int) -> list[NDArray[Any]]:
    """The ids from one place to another of several files, one after another; no copies."""
    found: list[NDArray[Any]] = []
    for file in files:
        own = slice(max(0, start), max(0, min(end, file.count)))
        found += [file.open()[own]] if own.start < own.stop else []
        start, end = start - file.count, end - file.count
    return found


def next_document(files: Sequence[TokenFile], start: int, end: int, separator: int) -> int:
    """The first place from `start` on with the separator; `start` if there is none before `end`."""
    place = start
    for part in span(files, start, end):
        for first in range(0, len(part), _AT_ONCE):
            if len(found := np.flatnonzero(part[first : first + _AT_ONCE] == separator)):
                return place + first + int(found[0])
        place += len(part)
    return start
