"""The rows of a table: JSON lines, CSV, TSV, Parquet or Arrow, compressed or not, with the place of each row."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import IO, Any

from blockformer.errors import DataError
from registry.errors import nearest
from registry.text import shortened

Row = tuple[str, ...]
Lines = Iterator[tuple[str, Row]]
"""Rows, each with the place where it stands."""
PACKED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
LONGEST = 2**28
"""Bytes of a line at most."""
_AT_ONCE = 1024  # rows of a Parquet or Arrow file


def rows(path: Path, columns: Sequence[str]) -> Lines:
    """The rows of a file, of these columns alone.

    Raises:
        DataError: it cannot be read, a column is missing, or a value is no text; the message has the line or the row.
    """
    try:
        yield from reader_of(path)(path, columns)
    except DataError:
        raise
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "is larger than the free memory"
        raise DataError(f"{path}: {shortened(reason)}") from None


def reader_of(path: Path) -> Callable[[Path, Sequence[str]], Lines]:
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


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file of text, which may be compressed, with their numbers.

    Raises:
        DataError: a line is too long or not UTF-8.
    """
    with _opened(path) as stream:
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


def _opened(path: Path) -> IO[bytes]:
    import pyarrow  # loads only where tables are read

    if not path.is_file():
        raise DataError(f"{path}: is not a regular file; write the table to a file first")
    packing = PACKED.get(path.suffix.lower())
    return io.BufferedReader(_Raw(pyarrow.input_stream(str(path), compression=packing)), 2**20)


class _Raw(io.RawIOBase):
    """A stream of pyarrow, which unpacks by the ending of the file, as one of Python."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _json_rows(path: Path, columns: Sequence[str]) -> Lines:
    for number, line in _lines(path):
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
        _check_names(where, columns, found)
        yield where, tuple(_text(found[name], where, name) for name in columns)


def _csv_rows(path: Path, columns: Sequence[str]) -> Lines:
    csv.field_size_limit(LONGEST)
    reader = csv.reader(
        (line for _, line in _lines(path)), delimiter="\t" if _ending(path) == ".tsv" else ",", strict=True
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
            _check_names(where, columns, header)
            places = [header.index(name) for name in columns]
        elif fields:
            if len(fields) != len(header):
                raise DataError(f"{where}: has {len(fields)} fields, and the header {len(header)}")
            yield where, tuple(fields[place] for place in places)


def _parquet_rows(path: Path, columns: Sequence[str]) -> Lines:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            _check_names(str(path), columns, file.schema_arrow.names)
            yield from _batches(path, columns, file.iter_batches(_AT_ONCE, columns=list(columns)))
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a Parquet file: {shortened(str(error))}") from None


def _arrow_rows(path: Path, columns: Sequence[str]) -> Lines:
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as mapped:
            try:
                file = pyarrow.ipc.open_file(mapped)
                batches = (file.get_batch(number) for number in range(file.num_record_batches))
            except pyarrow.ArrowInvalid:  # the format of streams, which Hugging Face's datasets write
                mapped.seek(0)
                file = batches = pyarrow.ipc.open_stream(mapped)
            _check_names(str(path), columns, file.schema.names)
            yield from _batches(path, columns, batches)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as an Arrow file: {shortened(str(error))}") from None


def _batches(path: Path, columns: Sequence[str], batches: Any) -> Lines:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _AT_ONCE):
            part = batch.slice(start, _AT_ONCE)
            for values in zip(*(part.column(name).to_pylist() for name in columns), strict=True):
                number += 1
                where = f"{path}, row {number}"
                yield where, tuple(_text(value, where, name) for value, name in zip(values, columns, strict=True))


def _check_names(where: str, columns: Sequence[str], names: Sequence[str] | Mapping[str, Any]) -> None:
    """Check that there are the wanted columns among those of a table.

    Raises:
        DataError: one is missing; the message has the nearest one, or those that there are.
    """
    for name in columns:
        if name not in names:
            shown = [shortened(str(known), 40) for known in names][:20]
            known = nearest(name, shown) or f"it has {', '.join(shown) or 'none'}"
            raise DataError(f"{where}: there is no column {name!r}; {known}")


def _text(value: Any, where: str, name: str) -> str:
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


READERS: dict[str, Callable[[Path, Sequence[str]], Lines]] = {
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".parquet": _parquet_rows,
    ".arrow": _arrow_rows,
}
