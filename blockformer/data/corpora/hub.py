"""Datasets of Hugging Face: folders that `save_to_disk` has written, and others by name, which are copied once."""

import os.path
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from blockformer.data import cache
from blockformer.data.corpora.corpus import size_of
from blockformer.data.corpora.files import stamp
from blockformer.data.corpora.table_readers import check_names
from blockformer.data.corpora.table_rows import Row, text_of
from blockformer.data.progress import stage
from blockformer.data.sequences import SHARD
from blockformer.errors import DataError
from blockformer.files import parse_json
from registry.errors import nearest
from registry.files import file_in, read_bytes
from registry.text import shortened

_SPLITS, _STATE = "dataset_dict.json", "state.json"
_AT_ONCE = 1024  # rows of a group of a copy
_LARGEST = 2**24  # bytes of a file that describes a dataset; it has a line for each data file


def is_saved(path: str) -> bool:
    """Whether a path is a folder of `save_to_disk`, with splits or without."""
    folder = Path(path).expanduser()
    return (folder / _SPLITS).is_file() or (folder / _STATE).is_file()


def saved_files(path: str, split: str) -> list[str]:
    """The Arrow files of a split of a folder of `save_to_disk`, in the order of their rows.

    Args:
        path: The folder.
        split: Its name; a folder without splits has `train` alone.

    Raises:
        DataError: There is no such split, or it cannot be read.
    """
    folder = Path(path).expanduser()
    known = _names(folder, _SPLITS) if (folder / _SPLITS).is_file() else ["train"]
    if split not in known:
        advice = nearest(split, known) or f"it has {', '.join(known)}"
        raise DataError(f"{folder}: there is no split {split!r}; {advice}")
    part = f"{split}/" if (folder / _SPLITS).is_file() else ""
    try:
        return [str(file_in(folder, f"{part}{name}")) for name in _names(folder, f"{part}{_STATE}")]
    except OSError as error:
        raise DataError(f"{shortened(error.filename)}: cannot be read: {error.strerror}") from None


def _names(folder: Path, file: str) -> list[str]:
    """The splits that a `dataset_dict.json` names, or the files of a `state.json`, that lie in a folder.

    Raises:
        DataError: it names none, or what is elsewhere; or its rows are chosen by an index.
    """
    path = folder / file
    try:
        found = parse_json(read_bytes(file_in(folder, file, _LARGEST), _LARGEST).decode("utf-8"))
        if path.name == _STATE and (found.get("_indices_files") or found.get("_indices_data_files")):
            raise DataError(f"{path.parent}: its rows are chosen by an index; save it anew after flatten_indices()")
        names = found["splits"] if path.name == _SPLITS else [file["filename"] for file in found["_data_files"]]
        if not names or not isinstance(names, list):
            raise ValueError("it names nothing")
        if any(not isinstance(name, str) or Path(name).name != name or "\0" in name for name in names):
            raise ValueError("it names what is elsewhere")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        missing = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        reason = getattr(error, "strerror", None) or missing
        raise DataError(f"{path}: is not what save_to_disk writes: {shortened(reason)}") from None
    return names


def copied_files(path: str, subset: str | None, split: str, revision: str | None, columns: Sequence[str]) -> list[str]:
    """Parquet files with the columns of a split, read once from the hub or a local folder and kept in the cache.

    Args:
        path: Name of the dataset, or a folder of data files.
        subset: Its configuration.
        split: Its split.
        revision: Branch, tag or commit.
        columns: The columns to keep.

    Raises:
        DataError: The package `datasets` is missing, or it cannot read the dataset; the path is neither that of a
            folder nor a name; or a value is no text.
    """
    key = {"path": path, "subset": subset, "split": split, "revision": revision, "columns": list(columns), "format": 1}
    folder = Path(path).expanduser()
    local = folder.is_dir()
    if folder.is_file():
        raise DataError(f"data.path {path}: is a file; name its folder, or read it with --data.dataset table")
    if not local and (path[0] in "/.~" or path.count("/") > 1):
        known = "the name of a dataset is one such as roneneldan/TinyStories"
        raise DataError(f"data.path {path}: there is no such folder, and {known}")
    if local:
        key["files"] = _stamps(folder)

    def build(target: Path) -> None:
        place = str(folder) if local else path
        _write(target, _rows(place, subset, split, revision, columns), columns, f"{path}, {split}")
        if local and _stamps(folder) != key["files"]:
            raise DataError(f"data.path {path}: its files changed while they were read; start again")

    return sorted(map(str, cache.cached("hub", key, build).glob("*.parquet")))


def _stamps(folder: Path) -> list[Any]:
    """Path, size and time of change of each file of a folder."""
    return [stamp(file) for file in sorted(folder.rglob("*")) if file.is_file()]


def _rows(path: str, subset: str | None, split: str, revision: str | None, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a split as they come; the dataset is not kept as a whole."""
    try:
        from datasets import load_dataset, load_dataset_builder  # an extra, which takes seconds to load
    except ImportError:
        raise DataError(
            f"data.path {path}: reading a dataset by its name needs the package datasets: "
            "pip install 'blockformer[datasets]'"
        ) from None
    where = f"{path}, {split}"
    try:
        if Path(path).is_dir():
            _check_inside(Path(path), load_dataset_builder(path, subset).config.data_files)
        for number, row in enumerate(load_dataset(path, subset, split=split, revision=revision, streaming=True), 1):
            place = f"{where}, row {number}"
            check_names(place, columns, row)
            yield tuple(text_of(row[name], place, name) for name in columns)
    except DataError:
        raise
    except Exception as error:  # datasets raises errors of any class
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(f"data.path {where}: datasets cannot read it: {shortened(reason)}") from None


def _check_inside(folder: Path, files: Mapping[str, Sequence[str]] | None) -> None:
    """Check that a folder, which may come from a stranger, names no files elsewhere: in its `README.md`, or by links.

    Raises:
        DataError: it does.
    """
    for file in (file for of_split in (files or {}).values() for file in of_split):
        try:
            file_in(folder, os.path.relpath(file.rpartition("::")[2], folder))  # what is before :: is in an archive
        except OSError as error:
            raise DataError(f"data.path {folder}: {shortened(file)}: {error.strerror}") from None


def _write(folder: Path, rows: Iterator[Row], columns: Sequence[str], where: str) -> None:
    """Write rows to Parquet files of less than `SHARD` bytes of text and a group of rows."""
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([(name, pyarrow.string()) for name in columns])
    writer, written, number = None, 0, 0
    with stage("copying", None) as copying, ExitStack() as opened:
        for group in _groups(rows):
            if writer is None or written >= SHARD:
                opened.close()
                path = folder / f"{number:05d}.parquet"
                writer = opened.enter_context(parquet.ParquetWriter(path, schema, compression="zstd"))
                written, number = 0, number + 1
            table: Mapping[str, Any] = dict(zip(columns, zip(*group, strict=True), strict=True))
            writer.write_table(pyarrow.table(table, schema))
            size = sum(map(size_of, group))
            written += size
            copying.advance(size)
    if writer is None:
        raise DataError(f"data.path {where}: the split has no rows; choose another one")


def _groups(rows: Iterator[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if len(group) == _AT_ONCE:
            yield group
            group = []
    if group:
        yield group
