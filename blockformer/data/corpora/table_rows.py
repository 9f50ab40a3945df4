"""The rows of a table: JSON lines, CSV, TSV, Parquet or Arrow, compressed or not, with the place of each row."""

import csv
import io
import json
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO, Any

from blockformer.errors import DataError
from registry.errors import nearest
from registry.text import shortened

Row = tuple[str, ...]
Lines = Iterator[tuple[str, Row]]
"""Rows, each with the place where it stands."""
Counter = Callable[[int], object]
"""Called with the number of bytes that were just read from the file."""
Reader = Callable[[Path, Sequence[str], Counter, Collection[str]], Lines]
PACKED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
LONGEST = 2**28
"""Bytes of a line at most."""
_AT_ONCE = 1024  # rows of a Parquet or Arrow file


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
    with _reading(path):
        yield from reader_of(path)(path, columns, count, labels)


def json_values(path: Path, column: str, count: Counter = int) -> Iterator[tuple[str, Any]]:
    """The values of a column of a file of JSON lines, which may be of any kind, with their places.

    Args:
        path: the file.
        column: its name.
        count: called with the number of bytes that were just read from the file.

    Raises:
        DataError: it cannot be read, or a line is no object or has no such column; the message has the line.
    """
    with _reading(path):
        yield from ((where, found[column]) for where, found in _json_objects(path, (column,), count))


@contextmanager
def _reading(path: Path) -> Generator[None]:
    """Turn an error of the system into a `DataError` that has the path."""
    try:
        yield
    except DataError:
        raise
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "is larger than the free memory"
        raise DataError(f"{path}: {shortened(reason)}") from None


def reader_of(path: Path) -> Reader:
    """What reads a file, by its ending.

    Raises:
        DataError: the ending is not that of a table.
    """
    ending = _ending(path)
    if ending not in READERS:
        known = nearest(ending, READERS) or f"known: {', '.join(READERS)}, and {', '.join(PACKED)} after it"
        raise DataError(f"{path}: the ending {ending or '(none)'} is not that of a table; {known}")
    return READERS[ending]


def _ending(path: Path) -> str:
    """The ending that names the format, without that of the compression."""
    name = PurePath(path.name.lower())
    return (name.with_suffix("") if name.suffix in PACKED else name).suffix


def _lines(path: Path, count: Counter) -> Iterator[tuple[int, str]]:
    """The lines of a file of text, which may be compressed, with their numbers.

    Raises:
        DataError: a line is too long or not UTF-8.
    """
    with _opened(path, count) as stream:
        for number, line in enumerate(iter(lambda: stream.readline(LONGEST + 1), b""), start=1):
            if len(line) > LONGEST:
                raise DataError(f"{path}:{number}: the line has more than {LONGEST // 2**20} MiB")
            if b"\0" in line:
                raise DataError(f"{path}:{number}: is not text: byte 0x00 at byte {line.find(0)} of the line")
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                wrong = f"byte {line[error.start]:#04x} at byte {error.start} of the line"
                raise DataError(f"{path}:{number}: not UTF-8 ({wrong}); convert the file to UTF-8") from None


def _opened(path: Path, count: Counter) -> IO[bytes]:
    import pyarrow  # loads only where tables are read

    if not path.is_file():
        raise DataError(f"{path}: is not a regular file; write the table to a file first")
    packing = PACKED.get(path.suffix.lower())
    file = pyarrow.OSFile(str(path))
    stream = file if packing is None else pyarrow.CompressedInputStream(file, packing)
    return io.BufferedReader(_Raw(file, stream, count), 2**20)


class _Raw(io.RawIOBase):
    """A stream of pyarrow as one of Python.

    Args:
        file: the file.
        stream: the file, or what unpacks it.
        count: called with the number of bytes that were just read from the file.
    """

    def __init__(self, file: Any, stream: Any, count: Counter) -> None:
        self._file, self._stream, self._count, self._before = file, stream, count, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        position = self._file.tell()
        self._count(position - self._before)
        self._before = position
        return len(data)

    def close(self) -> None:
        self._stream.close()
        self._file.close()
        super().close()


def _json_objects(path: Path, columns: Sequence[str], count: Counter) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file of JSON lines, with their places; each has these columns."""
    for number, line in _lines(path, count):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else shortened(str(error))
            raise DataError(f"{where}: is not JSON: {reason}; each line must be one JSON object") from None
        if not isinstance(found, dict):
            raise DataError(f'{where}: is not a JSON object; each line must be one, such as {{"text": "..."}}')
        check_names(where, columns, found)
        yield where, found


def _json_rows(path: Path, columns: Sequence[str], count: Counter, labels: Collection[str]) -> Lines:
    for where, found in _json_objects(path, columns, count):
        yield where, tuple(_value(found[name], where, name, labels) for name in columns)


def _csv_rows(path: Path, columns: Sequence[str], count: Counter, labels: Collection[str]) -> Lines:
    csv.field_size_limit(LONGEST)
    reader = csv.reader(
        (line for _, line in _lines(path, count)), delimiter="\t" if _ending(path) == ".tsv" else ",", strict=True
    )
    header: list[str] = []
    places: list[int] = []
    while True:
        where = f"{path}:{reader.line_num + 1}"
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise DataError(f"{where}: is not a row of a table: {error}") from None
        if not header:
            header = fields
            check_names(where, columns, header)
            places = [header.index(name) for name in columns]
        elif fields:
            if len(fields) != len(header):
                raise DataError(f"{where}: has {len(fields)} fields, and the header {len(header)}")
            yield where, tuple(fields[place] for place in places)


def _parquet_rows(path: Path, columns: Sequence[str], count: Counter, labels: Collection[str]) -> Lines:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            check_names(str(path), columns, file.schema_arrow.names)
            each = path.stat().st_size / max(1, file.metadata.num_rows)
            batches = file.iter_batches(_AT_ONCE, columns=list(columns))
            sized = ((batch, round(each * batch.num_rows)) for batch in batches)
            yield from _batches(path, columns, sized, count, labels)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a Parquet file: {shortened(str(error))}") from None


def _arrow_rows(path: Path, columns: Sequence[str], count: Counter, labels: Collection[str]) -> Lines:
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as mapped:
            try:
                file = pyarrow.ipc.open_file(mapped)
                each = path.stat().st_size // max(1, file.num_record_batches)
                batches = ((file.get_batch(number), each) for number in range(file.num_record_batches))
            except pyarrow.ArrowInvalid:  # the format of streams, which Hugging Face's datasets write
                mapped.seek(0)
                file = pyarrow.ipc.open_stream(mapped)
                batches = _streamed(file, mapped)
            check_names(str(path), columns, file.schema.names)
            yield from _batches(path, columns, batches, count, labels)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as an Arrow file: {shortened(str(error))}") from None


def _streamed(reader: Any, file: Any) -> Iterator[tuple[Any, int]]:
    """The batches of a stream, each with its bytes of the file."""
    before = 0
    for batch in reader:
        yield batch, file.tell() - before
        before = file.tell()


def _batches(
    path: Path, columns: Sequence[str], batches: Iterator[tuple[Any, int]], count: Counter, labels: Collection[str]
) -> Lines:
    """The rows of record batches, each of which comes with its bytes of the file."""
    number = 0
    for batch, size in batches:
        for start in range(0, batch.num_rows, _AT_ONCE):
            part = batch.slice(start, _AT_ONCE)
            for values in zip(*(_values(path, part, name) for name in columns), strict=True):
                number += 1
                where = f"{path}, row {number}"
                named = zip(values, columns, strict=True)
                yield where, tuple(_value(value, where, name, labels) for value, name in named)
        count(size)


def _values(path: Path, batch: Any, name: str) -> list[Any]:
    """The values of a column of a record batch.

    Raises:
        DataError: they are no values of its type; an index or a length in the file is wrong, for example.
    """
    try:
        column = batch.column(name)
        column.validate(full=True)  # else a wrong length reads what is beside the file in memory
        return column.to_pylist()
    except Exception as error:  # of any class: pyarrow makes dates, time zones, ... of what the file says
        raise DataError(f"{path}: the column {name!r} cannot be read: {shortened(str(error))}") from None


def check_names(where: str, columns: Sequence[str], names: Sequence[str] | Mapping[str, Any]) -> None:
    """Check that there are the wanted columns among those of a table.

    Raises:
        DataError: one is missing, or there are several of its name; of a missing one the message has the nearest, or
            those that there are.
    """
    for name in columns:
        if name not in names:
            shown = [shortened(str(known), 40) for known in names][:20]
            known = nearest(name, shown) or f"it has {', '.join(shown) or 'none'}"
            raise DataError(f"{where}: there is no column {name!r}; {known}")
        if not isinstance(names, Mapping) and list(names).count(name) > 1:
            raise DataError(f"{where}: there are several columns {name!r}; rename all but one")


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


READERS: dict[str, Reader] = {
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".parquet": _parquet_rows,
    ".arrow": _arrow_rows,
}
