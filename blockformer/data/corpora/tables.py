"""Columns of JSON lines, CSV, TSV, Parquet and Arrow files, read row by row, also where they exceed the memory."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from blockformer.data.corpora.corpus import SPLITS, Corpus, Source, StreamedCorpus
from blockformer.data.corpora.files import Files, stamps_of, unchanged
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
_OTHERS = {"validation": ("train",), "test": ("train", "validation")}


def source(dataset: str, files: Files, columns: Sequence[str]) -> Source:
    """Columns of tables: documents of one column, or pairs of two.

    Args:
        dataset: name of the dataset.
        files: which files; whole files for validation and test, or shares of the rows of the training files, of which
            equal ones stay together.
        columns: one name, or two.

    Raises:
        DataError: a file is missing, or its ending is not that of a table.
    """
    stamps = stamps_of(files)
    for path in (path for paths in files.own().values() for path in paths):
        _reader(path)
    key = {"dataset": dataset, "columns": list(columns), "files": stamps, "shares": dict(files.shares), "format": 1}

    def read() -> Corpus:
        own = files.own()
        keys = {split: np.fromiter(map(_key, _of(paths, columns)), np.uint64) for split, paths in own.items()}
        unchanged(files, stamps)
        empty = [f"data.{split}_files" for split in files.given() if not len(keys[split])]
        if not len(keys["train"]) or empty:
            raise DataError(f"{', '.join(empty) or 'data.files'}: no row has text in {' and '.join(columns)}")
        limits = _limits(keys["train"], files.taken())
        if int(keys["train"].max()) < (limits[-1][1] if limits else 0):
            raise DataError(f"{dataset}: validation and test leave nothing to train on; lower their shares")

        def stream() -> Iterator[tuple[str, Any]]:
            for split, paths in own.items():
                for row in _of(paths, columns):
                    of = _split(_key(row), limits) if split == "train" else split
                    yield of, row if len(columns) > 1 else row[0]
            unchanged(files, stamps)

        notes = _notes(files, keys, "rows" if len(columns) == 1 else "sources")
        facts = {"dataset": dataset, "files": {split: [path.name for path in paths] for split, paths in own.items()}}
        return StreamedCorpus({}, len(columns) > 1, facts, notes, read=stream)

    return Source(key, read)


def rows(path: Path, columns: Sequence[str]) -> Lines:
    """The rows of a file, of these columns alone.

    Raises:
        DataError: it cannot be read, a column is missing, or a value is no text; the message has the line or the row.
    """
    try:
        yield from _reader(path)(path, columns)
    except DataError:
        raise
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "is larger than the free memory"
        raise DataError(f"{path}: {shortened(reason)}") from None


def _of(paths: Sequence[Path], columns: Sequence[str]) -> Iterator[Row]:
    """The rows of several files that have text in all columns."""
    return (row for path in paths for _, row in rows(path, columns) if all(field.strip() for field in row))


def _key(row: Row) -> int:
    """A number below 2^64 that decides which split a row belongs to; rows with the same first field have the same."""
    return int.from_bytes(hashlib.blake2b(row[0].encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _limits(keys: NDArray[np.uint64], shares: Mapping[str, float]) -> list[tuple[str, int]]:
    """The splits that are taken from the training files, each with the number that its keys are below."""
    ordered, limits, end = np.unique(keys), list[tuple[str, int]](), 0
    for split, share in shares.items():
        end += int(np.ceil(share * len(ordered)))
        limits.append((split, int(ordered[end]) if end < len(ordered) else 2**64))
    return limits


def _split(key: int, limits: Sequence[tuple[str, int]]) -> str:
    return next((split for split, limit in limits if key < limit), "train")


def _notes(files: Files, keys: Mapping[str, NDArray[np.uint64]], what_is_compared: str) -> dict[str, list[str]]:
    """What a user should know: rows of files to score on that are also trained on, and files that are named twice."""
    notes: dict[str, list[str]] = {split: [] for split in SPLITS}
    if again := files.named_again():
        notes["train"].append(f"{again[0]} is named more than once and is read once")
    for split in files.given():
        for other in _OTHERS[split]:
            shared = int(np.isin(keys[split], keys[other]).sum())
            if shared:
                what = f"{shared:,} of {len(keys[split]):,} {what_is_compared} of the {split} files"
                notes[split].append(f"{what} are in the {'training' if other == 'train' else other} files too")
    return notes


def _reader(path: Path) -> Callable[[Path, Sequence[str]], Lines]:
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
        yield (
            where,
            tuple(
                _text(found[name] if name in found else _missing(where, name, found), where, name) for name in columns
            ),
        )


def _csv_rows(path: Path, columns: Sequence[str]) -> Lines:
    csv.field_size_limit(LONGEST)
    reader = csv.reader(
        (line for _, line in _lines(path)), delimiter="\t" if _ending(path) == ".tsv" else ",", strict=True
    )
    header: list[str] | None = None
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise DataError(f"{path}:{number}: is not a row of a table: {error}") from None
        where = f"{path}:{number}"
        if header is None:
            header = fields
            for name in columns:
                if name not in header:
                    _missing(where, name, header)
            places = [header.index(name) for name in columns]
        elif fields:
            if len(fields) != len(header):
                raise DataError(f"{where}: has {len(fields)} fields, and the header {len(header)}")
            yield where, tuple(fields[place] for place in places)  # pyright: ignore[reportPossiblyUnboundVariable]


def _parquet_rows(path: Path, columns: Sequence[str]) -> Lines:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            _check_names(path, columns, file.schema_arrow.names)
            yield from _batches(path, columns, file.iter_batches(_AT_ONCE, columns=list(columns)))
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is no Parquet file that can be read: {shortened(str(error))}") from None


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
            _check_names(path, columns, file.schema.names)
            yield from _batches(path, columns, batches)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is no Arrow file that can be read: {shortened(str(error))}") from None


def _batches(path: Path, columns: Sequence[str], batches: Any) -> Lines:
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _AT_ONCE):
            part = batch.slice(start, _AT_ONCE)
            for values in zip(*(part.column(name).to_pylist() for name in columns), strict=True):
                number += 1
                where = f"{path}, row {number}"
                yield where, tuple(_text(value, where, name) for value, name in zip(values, columns, strict=True))


def _check_names(path: Path, columns: Sequence[str], names: Sequence[str]) -> None:
    for name in columns:
        if name not in names:
            _missing(str(path), name, names)


def _missing(where: str, name: str, names: Sequence[str] | Mapping[str, Any]) -> NoReturn:
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
            raise DataError(f"{where}: {name} has half a character ({wrong}); remove it") from None
    return value


READERS: dict[str, Callable[[Path, Sequence[str]], Lines]] = {
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".parquet": _parquet_rows,
    ".arrow": _arrow_rows,
}
