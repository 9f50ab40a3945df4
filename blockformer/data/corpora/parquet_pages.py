"""The pages of a Parquet file, from their headers: how many rows can be read at once in bounded memory.

A page is what is unpacked at once, and its header says how many values and bytes it then has. The file's own metadata
have sums of whole groups of rows alone, in which a thousand long texts hide among a million short ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from blockformer.errors import DataError

MOST_BYTES = 2**30
"""Bytes of an unpacked page at most."""
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3  # types of pages
_INDICES, _DELTA_BYTE_ARRAY = (2, 8), 7  # encodings: places in the dictionary; each value begins like the one before
_TRUE, _FALSE, _INTEGERS, _BINARY, _STRUCT = 1, 2, (4, 5, 6), 8, 12  # types of Thrift's compact protocol
_DEEPEST = 4  # structs in structs
_DAMAGED = "the header of a page is damaged"


@dataclass(frozen=True)
class Page:
    """A page of values.

    Attributes:
        values: their number, nulls included; without lists that of the rows.
        size: bytes of the unpacked page.
        repeated: bytes of the longest value that it can repeat at most, such as those of the dictionary; 0 if none.
    """

    values: int
    size: int
    repeated: int

    def bytes_of(self, rows: int) -> int:
        """Bytes that a number of its values have at most."""
        return max(self.size, min(rows, self.values) * self.repeated)


def pages_of(stream: IO[bytes], chunk: Any, dictionary: bool = True) -> list[Page]:
    """The pages with values of a column of a group of rows, in order.

    Args:
        stream: the file.
        chunk: a ``pyarrow.parquet.ColumnChunkMetaData`` of the file.
        dictionary: whether pages can repeat values of the dictionary; False if that is read by itself.

    Raises:
        DataError: a header is damaged, or a page too large.
    """
    found, left, entries = list[Page](), chunk.num_values, 0
    place = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        place = min(place, chunk.dictionary_page_offset)
    while left > 0:
        stream.seek(place)
        header = _struct(stream)
        kind, size, compressed = (_number(header, key) for key in (1, 2, 3))
        if size > MOST_BYTES:
            most = f"at most {MOST_BYTES // 2**20} MiB are read"
            raise DataError(f"{chunk.path_in_schema} has a page of {size:,} bytes, {most}; write it with smaller pages")
        place = stream.tell() + compressed  # where the next page begins
        if kind == _DICTIONARY:
            entries = size
        elif kind in (_DATA, _DATA_V2):
            about = header.get(5 if kind == _DATA else 8)
            encoding = about.get(2 if kind == _DATA else 4) if isinstance(about, dict) else None
            if not isinstance(about, dict) or encoding is None:
                raise DataError(_DAMAGED)
            indices = entries if dictionary and encoding in _INDICES else 0
            found.append(Page(_number(about, 1), size, size if encoding == _DELTA_BYTE_ARRAY else indices))
            left -= found[-1].values
    return found


def most_rows(columns: Sequence[Sequence[Page]], at_once: int, limit: int) -> int:
    """How many rows can be read at once, wherever they begin, so that the pages in which they lie are small enough.

    Args:
        columns: the pages of each column, all of the same number of rows.
        at_once: a number that is never exceeded.
        limit: bytes of these pages in all. A page of more than half of it, which is unpacked as a whole anyway, raises
            it to twice its size, and the rows are then so many as have the limit on its average.

    Returns:
        at_once, or that halved as often as needed; at least 1.
    """
    pages = [page for pages in columns for page in pages]
    rows, most = at_once, max([limit, *(2 * page.size for page in pages)])
    large = [page.size / max(1, page.values) for page in pages if 2 * page.size > limit]
    while rows > 1 and (
        sum(_most_bytes(pages, rows) for pages in columns if pages) > most or rows * max(large, default=0) > limit
    ):
        rows //= 2
    return rows


def _most_bytes(pages: Sequence[Page], rows: int) -> int:
    """Bytes that a number of successive rows can have at most: those of the pages in which they lie."""
    ends = np.cumsum([page.values for page in pages])
    before = np.cumsum([0, *(page.bytes_of(rows) for page in pages)])
    last = np.searchsorted(np.concatenate(([0], ends[:-1])), ends + rows - 2, side="right")
    return int((before[last] - before[:-1]).max())


def _struct(stream: IO[bytes], depth: int = 0) -> dict[int, Any]:
    """The fields of a struct in Thrift's compact protocol, by their numbers; of texts nothing."""
    found, number = dict[int, Any](), 0
    while (first := _byte(stream)) != 0:
        number = number + (first >> 4) if first >> 4 else _signed(stream)
        match first & 15:
            case kind if kind in _INTEGERS:
                found[number] = _signed(stream)
            case kind if kind in (_TRUE, _FALSE):
                found[number] = kind == _TRUE
            case kind if kind == _BINARY:
                stream.seek(_unsigned(stream), 1)
            case kind if kind == _STRUCT and depth < _DEEPEST:
                found[number] = _struct(stream, depth + 1)
            case _:
                raise DataError(_DAMAGED)
    return found


def _number(fields: dict[int, Any], key: int) -> int:
    value = fields.get(key)
    if not isinstance(value, int) or not 0 <= value < 2**31:
        raise DataError(_DAMAGED)
    return value


def _signed(stream: IO[bytes]) -> int:
    value = _unsigned(stream)
    return value >> 1 ^ -(value & 1)


def _unsigned(stream: IO[bytes]) -> int:
    value = 0
    for shift in range(0, 64, 7):
        part = _byte(stream)
        value |= (part & 127) << shift
        if part < 128:
            return value
    raise DataError(_DAMAGED)


def _byte(stream: IO[bytes]) -> int:
    if not (read := stream.read(1)):
        raise DataError(_DAMAGED)
    return read[0]
