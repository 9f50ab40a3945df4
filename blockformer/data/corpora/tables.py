"""A corpus of columns of tables, which is read row by row and may exceed the memory."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockformer.data.corpora import file_notes
from blockformer.data.corpora.corpus import SPLITS, Corpus, Labelled, Source, StreamedCorpus, size_of
from blockformer.data.corpora.files import OTHERS, Files, refuse_nothing, stamps_of, unchanged
from blockformer.data.corpora.labels import Labels
from blockformer.data.corpora.table_readers import Counter, reader_of
from blockformer.data.corpora.table_rows import Row, rows
from blockformer.data.progress import stage
from blockformer.errors import DataError


def source(
    dataset: str,
    files: Files,
    columns: Sequence[str],
    names: Mapping[str, str] | None = None,
    about: Mapping[str, Any] | None = None,
    labels: Labels | None = None,
) -> Source:
    """Columns of tables: documents of one column, pairs of two, or with labels one or two texts.

    Args:
        dataset: name of the dataset.
        files: which files; whole files for validation and test, or shares of the rows of the training files, of which
            equal ones stay together.
        columns: one name, or two.
        names: what a user calls the rows of each split; None: the options that name its files.
        about: further facts.
        labels: reads the label of each row; None: rows have none.

    Raises:
        DataError: a file is missing or empty, or its ending is not that of a table.
    """
    stamps = stamps_of(files)
    names = names or {split: "data.files" if split == "train" else f"data.{split}_files" for split in SPLITS}
    for path in (path for paths in files.own().values() for path in paths):
        reader_of(path)
        refuse_nothing(path)
    key = {"dataset": dataset, "columns": list(columns), "files": stamps, "shares": dict(files.shares), "format": 1}
    key["again"] = [*map(str, files.named_again())]
    key |= {} if labels is None else labels.key

    def read() -> Corpus:
        own = files.own()
        keys, size = _keys(own, columns, labels)
        unchanged(files, stamps)
        empty = [names[split] for split in ("train", *files.given()) if not len(keys[split])]
        if empty:
            raise DataError(f"{', '.join(empty)}: no row has text in {' and '.join(columns)}")
        limits = limits_of(keys["train"], files.taken())
        if int(keys["train"].max()) < (limits[-1][1] if limits else 0):
            raise DataError(f"{dataset}: validation and test leave no training data; lower their shares")

        def stream() -> Iterator[tuple[str, Any]]:
            for split, paths in own.items():
                for _, row, label in _of(paths, columns, labels):
                    of = split_of(key_of(row[0]), limits) if split == "train" else split
                    if labels is not None:
                        yield of, Labelled(row, labels.number(label))
                    else:
                        yield of, row if len(columns) > 1 else row[0]
            unchanged(files, stamps)

        what = "rows" if len(columns) == 1 else "first texts" if labels is not None else "sources"
        notes = {split: [*overlaps(files, split, keys, what)] for split in SPLITS}
        notes["train"] += file_notes.repetition_notes(files.named_again(), {})
        facts = {"dataset": dataset, "files": {split: [path.name for path in paths] for split, paths in own.items()}}
        facts |= about or {}
        if labels is None:
            return StreamedCorpus({}, len(columns) > 1, facts, notes, read=stream, bytes=size)
        facts |= labels.facts()
        return StreamedCorpus({}, False, facts, notes, len(columns), read=stream, bytes=size)

    return Source(key, read)


def _of(
    paths: Sequence[Path], columns: Sequence[str], labels: Labels | None, count: Counter = int
) -> Iterator[tuple[str, Row, str]]:
    """The rows of several files that have text in all columns: the place of each, its texts, and its label if any."""
    label = () if labels is None else (labels.column,)
    for path in paths:
        for where, row in rows(path, (*columns, *label), count, label):
            texts = row[: len(columns)]
            if all(field.strip() for field in texts):
                yield where, texts, row[-1]


def _keys(
    own: Mapping[str, Sequence[Path]], columns: Sequence[str], labels: Labels | None
) -> tuple[dict[str, NDArray[np.uint64]], int]:
    """The key of each row of the files of each split, and the bytes of all texts in UTF-8; the labels are seen."""
    size = 0

    def keys(split: str, paths: Sequence[Path]) -> Iterator[int]:
        nonlocal size
        for where, row, label in _of(paths, columns, labels, reading.advance):
            if labels is not None:
                labels.see(label, where, trained=split == "train")
            size += size_of(row)
            yield key_of(row[0])

    with stage("reading", sum(path.stat().st_size for paths in own.values() for path in paths)) as reading:
        found = {split: np.fromiter(keys(split, paths), np.uint64) for split, paths in own.items()}
    return found, size


def key_of(text: str) -> int:
    """A number below 2^64 that decides which split a row belongs to, by its first field."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def limits_of(keys: NDArray[np.uint64], shares: Mapping[str, float]) -> list[tuple[str, int]]:
    """The splits that are taken from the training files, each with the number that its keys are below."""
    ordered, limits, end = np.unique(keys), list[tuple[str, int]](), 0
    for split, share in shares.items():
        end += int(np.ceil(share * len(ordered)))
        limits.append((split, int(ordered[end]) if end < len(ordered) else 2**64))
    return limits


def split_of(key: int, limits: Sequence[tuple[str, int]]) -> str:
    """The split of a row with this key."""
    return next((split for split, limit in limits if key < limit), "train")


def overlaps(files: Files, split: str, keys: Mapping[str, NDArray[np.uint64]], what: str) -> Iterator[str]:
    """How many rows of a split's own files are also in files of other splits."""
    for other in OTHERS.get(split, ()) if split in files.given() else ():
        shared = int(np.isin(keys[split], keys[other]).sum())
        yield from file_notes.overlap_note(split, shared, len(keys[split]), what, other)
