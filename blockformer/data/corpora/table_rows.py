"""The rows of a table: JSON lines, CSV, TSV, Parquet or Arrow, compressed or not, with the place of each row."""

import json
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from blockformer.data.corpora.table_readers import Counter, Values, json_rows, reader_of
from blockformer.errors import DataError
from registry.text import shortened

Row = tuple[str, ...]
Lines = Iterator[tuple[str, Row]]
"""Rows, each with the place where it stands."""


def rows(path: Path, columns: Sequence[str], count: Counter = int, labels: Collection[str] = ()) -> Lines:
    """The rows of a file, of these columns alone.

    Args:
        path: the file.
        columns: their names.
        count: called with the number of bytes that were just read from the file.
        labels: names of those columns whose values may also be numbers or booleans, which are given as JSON has them.

    Raises:
        DataError: it cannot be read, a column is missing, or a value is no text; the message has the line or the row.
    """
    for where, values in raw_rows(path, columns, (), count):
        named = zip(values, columns, strict=True)
        yield where, tuple(_value(value, where, name, labels) for value, name in named)


def raw_rows(path: Path, columns: Sequence[str], optional: Collection[str] = (), count: Counter = int) -> Values:
    """The values of these columns, which may be of any kind, with the places of the rows.

    Args:
        path: the file.
        columns: their names.
        optional: names of those that may be missing; then their values are None.
        count: called with the number of bytes that were just read from the file.

    Raises:
        DataError: it cannot be read, or a column is missing; the message has the line or the file.
    """
    with _reading(str(path)):
        yield from reader_of(path)(path, columns, optional, count)


def raw_json_rows(stream: IO[bytes], name: str, columns: Sequence[str], optional: Collection[str] = ()) -> Values:
    """:func:`raw_rows` of JSON lines that come from a stream, such as standard input.

    Args:
        stream: the lines.
        name: of the stream, for messages.
        columns: names of the columns.
        optional: names of those that may be missing.

    Raises:
        DataError: a line is no object, or has no such column; the message has the line.
    """
    with _reading(name):
        yield from json_rows(stream, name, columns, optional)


@contextmanager
def _reading(name: str) -> Generator[None]:
    """Turn an error of the system into a `DataError` that begins with the name."""
    try:
        yield
    except DataError:
        raise
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "is larger than the free memory"
        raise DataError(f"{name}: {shortened(reason)}") from None


def _value(value: Any, where: str, name: str, labels: Collection[str]) -> str:
    """The text of a value; of a column of labels that of numbers and booleans too."""
    if name in labels and isinstance(value, bool | int | float):
        return json.dumps(value)
    return text_of(value, where, name)


def text_of(value: Any, where: str, name: str) -> str:
    """The text of a value of a column; null is no text.

    Raises:
        DataError: it is something else, or text that UTF-8 cannot encode.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}: {name} must be text, not {type(value).__name__}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            wrong = f"\\u{ord(value[error.start]):04x} at character {error.start}"
            raise DataError(f"{where}: {name} has an unpaired surrogate ({wrong}); remove it") from None
    return value
