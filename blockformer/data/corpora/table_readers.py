"""Readers of tables: JSON lines, CSV, TSV, Parquet or Arrow, compressed or not, with the place of each row."""

import csv
import io
import json
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO, Any

from blockformer.data.corpora.unpacked_size import LONGEST, dictionaries, parquet_batches, small_parts
from blockformer.errors import DataError
from registry.errors import nearest
from registry.text import shortened

Values = Iterator[tuple[str, tuple[Any, ...]]]
"""The values of rows as the file has them, each row with the place where it stands."""
Counter = Callable[[int], object]
"""Called with the number of bytes that were just read from the file."""
Reader = Callable[[Path, Sequence[str], Collection[str], Counter], Values]
"""Reads these columns of a file, some of which may be missing; then their values are None."""
PACKED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
_AT_ONCE = 1024  # rows of a Parquet or Arrow file


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


def _lines(stream: IO[bytes], name: str) -> Iterator[tuple[int, str]]:
    """The lines of a text, with their numbers.

    Raises:
        DataError: a line is too long or not UTF-8.
    """
    for number, line in enumerate(iter(lambda: stream.readline(LONGEST + 1), b""), start=1):
        if len(line) > LONGEST:
            raise DataError(f"{name}:{number}: the line has more than {LONGEST // 2**20} MiB")
        if b"\0" in line:
            raise DataError(f"{name}:{number}: is not text: byte 0x00 at byte {line.find(0)} of the line")
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            wrong = f"byte {line[error.start]:#04x} at byte {error.start} of the line"
            raise DataError(f"{name}:{number}: not UTF-8 ({wrong}); convert the file to UTF-8") from None


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


def json_rows(stream: IO[bytes], name: str, columns: Sequence[str], optional: Collection[str]) -> Values:
    """The values of columns of JSON lines.

    Args:
        stream: the lines.
        name: of the stream, for messages.
        columns: names of the columns.
        optional: names of those that may be missing.

    Raises:
        DataError: a line is no object, or has no such column.
    """
    needed = [column for column in columns if column not in optional]
    for number, line in _lines(stream, name):
        where = f"{name}:{number}"
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else shortened(str(error))
            raise DataError(f"{where}: is not JSON: {reason}; each line must be one JSON object") from None
        if not isinstance(found, dict):
            raise DataError(f'{where}: is not a JSON object; each line must be one, such as {{"text": "..."}}')
        check_names(where, needed, found)
        yield where, tuple(found.get(column) for column in columns)


def _json_file_rows(path: Path, columns: Sequence[str], optional: Collection[str], count: Counter) -> Values:
    with _opened(path, count) as stream:
        yield from json_rows(stream, str(path), columns, optional)


def _csv_rows(path: Path, columns: Sequence[str], optional: Collection[str], count: Counter) -> Values:
    with _opened(path, count) as stream:
        yield from _csv_lines(path, stream, columns, optional)


def _csv_lines(path: Path, stream: IO[bytes], columns: Sequence[str], optional: Collection[str]) -> Values:
    csv.field_size_limit(LONGEST)
    lines = (line for _, line in _lines(stream, str(path)))
    reader = csv.reader(lines, delimiter="\t" if _ending(path) == ".tsv" else ",", strict=True)
    needed = [column for column in columns if column not in optional]
    header: list[str] = []
    places: list[int | None] = []
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
            check_names(where, needed, header)
            places = [header.index(name) if name in header else None for name in columns]
        elif fields:
            if len(fields) != len(header):
                raise DataError(f"{where}: has {len(fields)} fields, and the header {len(header)}")
            yield where, tuple(None if place is None else fields[place] for place in places)


def _parquet_rows(path: Path, columns: Sequence[str], optional: Collection[str], count: Counter) -> Values:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            there = _columns_in(path, file.schema_arrow.names, columns, optional)
            each = path.stat().st_size / max(1, file.metadata.num_rows)
            with parquet.ParquetFile(path, pre_buffer=False, read_dictionary=dictionaries(file)) as repeats:
                batches = parquet_batches(path, file, repeats, there, _AT_ONCE)
                sized = ((batch, round(each * batch.num_rows)) for batch in batches)
                yield from _batches(path, columns, sized, count)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a Parquet file: {shortened(str(error))}") from None


def _arrow_rows(path: Path, columns: Sequence[str], optional: Collection[str], count: Counter) -> Values:
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
            _columns_in(path, file.schema.names, columns, optional)
            yield from _batches(path, columns, batches, count)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as an Arrow file: {shortened(str(error))}") from None


def _streamed(reader: Any, file: Any) -> Iterator[tuple[Any, int]]:
    """The batches of a stream, each with its bytes of the file."""
    before = 0
    for batch in reader:
        yield batch, file.tell() - before
        before = file.tell()


def _columns_in(path: Path, names: Sequence[str], columns: Sequence[str], optional: Collection[str]) -> list[str]:
    """Those of the columns that a file has.

    Raises:
        DataError: another one than an optional one is missing.
    """
    there = [column for column in columns if column in names or column not in optional]
    check_names(str(path), there, names)
    return there


def _batches(path: Path, columns: Sequence[str], batches: Iterator[tuple[Any, int]], count: Counter) -> Values:
    """The rows of record batches, each of which comes with its bytes of the file."""
    number = 0
    for batch, size in batches:
        there = {*batch.schema.names}
        for name in columns:
            if name in there:
                _validate(path, batch, name)
        for start in range(0, batch.num_rows, _AT_ONCE):
            for part in small_parts(path, batch.slice(start, _AT_ONCE), [*there & {*columns}], number):
                missing = [None] * part.num_rows
                values = (_values(path, part, name) if name in there else missing for name in columns)
                for row in zip(*values, strict=True):
                    number += 1
                    yield f"{path}, row {number}", row
        count(size)


def _validate(path: Path, batch: Any, name: str) -> None:
    """Check a whole column, once: of a slice of lists all values of the batch would be checked again.

    Raises:
        DataError: an index or a length in the file is wrong, for example, and would read what is beside it in memory.
    """
    with _naming_column(path, name):
        batch.column(name).validate(full=True)


def _values(path: Path, batch: Any, name: str) -> list[Any]:
    """The values of a column of a record batch.

    Raises:
        DataError: they are no values of its type.
    """
    with _naming_column(path, name):
        return batch.column(name).to_pylist()


@contextmanager
def _naming_column(path: Path, name: str) -> Generator[None]:
    try:
        yield
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


READERS: dict[str, Reader] = {
    ".jsonl": _json_file_rows,
    ".ndjson": _json_file_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".parquet": _parquet_rows,
    ".arrow": _arrow_rows,
}
