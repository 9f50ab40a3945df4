"""The user's own text: UTF-8 files, or files of tab-separated pairs."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from blockformer.data import plain_text
from blockformer.data.corpora import file_notes
from blockformer.data.corpora.corpus import SPLITS, Corpus, Pair, Source, held_out
from blockformer.data.formats import name_markup
from blockformer.data.progress import stage
from blockformer.errors import DataError

T = TypeVar("T")


@dataclass(frozen=True)
class Files:
    """The files, and how they are split.

    Args:
        train: Paths or glob patterns of the training text, and of splits without files of their own.
        validation: Paths or patterns to validate on; empty takes a share of `train`.
        test: Paths or patterns to test on; empty takes a share of `train`.
        shares: The share of `train` for "validation" and "test", where they have no files.
    """

    train: Sequence[str]
    validation: Sequence[str]
    test: Sequence[str]
    shares: Mapping[str, float]

    def own(self) -> dict[str, list[Path]]:
        """The files of every split, each once and in a fixed order.

        Raises:
            DataError: A path or pattern finds no file.
        """
        return {split: list(_identities(getattr(self, split)).values()) for split in SPLITS}

    def named_again(self) -> list[Path]:
        """The names of training files that were named before, perhaps otherwise.

        Notes name them, so they are in the key of a source.
        """
        names = _expand(self.train)
        for path in self.own()["train"]:
            names.remove(path)
        return names

    def given(self) -> set[str]:
        """The splits other than training that have files of their own."""
        return {split for split in self.shares if getattr(self, split)}

    def taken(self) -> dict[str, float]:
        """The shares of the splits that are taken from the training files."""
        return {split: share for split, share in self.shares.items() if split not in self.given()}


def source(dataset: str, files: Files) -> Source:
    """The text of files, identified by their paths, sizes and times of change, so that unchanged files are not read.

    Args:
        dataset: "text" or "pairs".
        files: Which files.

    Raises:
        DataError: A file is missing.
    """
    stamps = stamps_of(files)
    _check_memory(sum(one[1] for found in stamps.values() for one in found))
    key = {"dataset": dataset, "files": stamps, "again": [*map(str, files.named_again())], "shares": dict(files.shares)}
    key["format"] = 3

    def read() -> Corpus:
        corpus = READERS[dataset](files)
        unchanged(files, stamps)
        return corpus

    return Source(key, read)


Stamps = dict[str, list[tuple[str, int, int, int, int]]]


def stamps_of(files: Files) -> Stamps:
    """Path, size, times of modification and of change, and inode of the files of each split; a write changes them.

    Raises:
        DataError: A file is missing.
    """
    return {split: [stamp(path) for path in paths] for split, paths in files.own().items()}


def refuse_nothing(path: Path) -> None:
    """Refuse a file without a byte, which is rather one that was not written than one without rows.

    Raises:
        DataError: It is one.
    """
    if path.is_file() and not path.stat().st_size:
        raise DataError(f"{path}: is empty")


def unchanged(files: Files, stamps: Stamps) -> None:
    """Check that files are what they were.

    Raises:
        DataError: One was changed.
    """
    for before, after in zip(stamps.values(), stamps_of(files).values(), strict=True):
        if changed := {one[0] for one in {*before} ^ {*after}}:
            raise DataError(f"{min(changed)}: was changed while it was read; start again when it is complete")


def stamp(path: Path) -> tuple[str, int, int, int, int]:
    """Path, size, times of modification and of change, inode: every write moves the time of change."""
    about = path.stat()
    return str(path.resolve()), about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino


def _check_memory(size: int) -> None:
    """Refuse more text than fits into the memory of this machine.

    Raises:
        DataError: It needs more than there is.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    if _MEMORY * size > memory:
        raise DataError(
            f"data.files: {size / 1e9:.1f} GB of text need about {_MEMORY * size / 1e9:.1f} GB of memory, and this "
            f"machine has {memory / 1e9:.1f} GB; name fewer or smaller files"
        )


def read_text(files: Files) -> Corpus:
    """Read plain text; each file is a document.

    With enough files, whole files are held out; with fewer, the end of each file.

    Raises:
        DataError: A file is missing, empty or not UTF-8.
    """
    texts = _contents(files, plain_text.read)
    train, shares = list(texts["train"].values()), files.taken()
    if all(share * len(train) >= 1 for share in shares.values() if share):
        taken = held_out(train, shares, str)
    else:
        taken = _tails(train, shares)
    notes = {split: [*file_notes.markup_notes(own)] for split, own in texts.items()}
    notes["train"] += file_notes.repetition_notes(files.named_again(), texts["train"])
    for split, others in OTHERS.items():
        notes[split] += file_notes.overlap_notes(split, texts[split], {other: texts[other] for other in others})
    splits = taken | {split: list(texts[split].values()) for split in files.given()}
    return _corpus("text", texts, splits, notes, paired=False)


def read_pairs(files: Files) -> Corpus:
    """Read pairs, one a line: source, tab, target. Pairs with the same source are held out together.

    Raises:
        DataError: A file is missing, empty or not UTF-8, or a line is not a pair.
    """
    pairs = _contents(files, _read_pairs)
    whole = {split: list(chain.from_iterable(own.values())) for split, own in pairs.items()}
    splits = held_out(whole["train"], files.taken(), lambda pair: pair[0])
    splits |= {split: whole[split] for split in files.given()}
    notes = {split: [*file_notes.pair_notes(own)] for split, own in pairs.items()}
    notes["train"] += file_notes.repetition_notes(files.named_again(), pairs["train"])
    for split, others in OTHERS.items():
        for other in others:
            notes[split] += file_notes.pair_overlap_note(split, splits[split], other, splits[other])
    return _corpus("pairs", pairs, splits, notes, paired=True)


def _contents(files: Files, read: Callable[[Path], T]) -> dict[str, dict[Path, T]]:
    """What is read from each file, by split, while it is shown how far the reading is."""
    own = files.own()
    found: dict[str, dict[Path, T]] = {split: {} for split in own}
    with stage("reading", sum(path.stat().st_size for paths in own.values() for path in paths)) as reading:
        for split, path in ((split, path) for split, paths in own.items() for path in paths):
            found[split][path] = read(path)
            reading.advance(path.stat().st_size)
    return found


def _corpus(
    dataset: str,
    own: Mapping[str, Mapping[Path, Any]],
    splits: Mapping[str, Sequence[Any]],
    notes: Mapping[str, Sequence[str]],
    paired: bool,
) -> Corpus:
    if not splits["train"]:
        raise DataError(f"{dataset}: too little text: validation and test leave no training data; lower their shares")
    facts = {"dataset": dataset, "files": {split: [path.name for path in paths] for split, paths in own.items()}}
    return Corpus(splits, paired, facts, notes)


def _identities(patterns: Sequence[str]) -> dict[tuple[int, int], Path]:
    """Device and inode of each file that is named, and the first of its names."""
    found: dict[tuple[int, int], Path] = {}
    for path in _expand(patterns):
        about = path.stat()
        found.setdefault((about.st_dev, about.st_ino), path)
    return found


def _expand(patterns: Sequence[str]) -> list[Path]:
    """The files that paths and patterns name.

    Raises:
        DataError: One of them names none, or a folder.
    """
    found: list[Path] = []
    for pattern in patterns:
        try:
            matches = _matches(pattern)
            for match in matches:
                match.stat()
        except DataError:
            raise
        except (OSError, ValueError, RuntimeError) as error:  # ValueError: no valid path; RuntimeError: no such user
            reason = getattr(error, "strerror", None) or str(error)
            raise DataError(f"{pattern or 'data.files'}: {reason[:1].lower()}{reason[1:]}") from None
        found += matches
    return found


def _matches(pattern: str) -> list[Path]:
    if not pattern:
        raise DataError("data.files: a name is empty; name a file")
    path = Path(pattern).expanduser()
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name files, or a pattern such as {path}/*.txt")
    if path.exists():
        return [path]
    relative = str(path.relative_to(path.anchor))
    matches = sorted(Path(path.anchor).glob(relative)) if any(one in relative for one in "*?[") else []
    if not matches:
        raise DataError(f"{pattern}: no such file")
    if not (files := [match for match in matches if not match.is_dir()]):
        raise DataError(f"{pattern}: only folders match; name files, or a pattern such as {matches[0]}/*.txt")
    return files


def _read_pairs(path: Path) -> list[Pair]:
    pairs: list[Pair] = []
    text = plain_text.read(path)
    for number, line in enumerate(plain_text.lines(text), start=1):
        if not line.strip():
            continue
        fields = [plain_text.stripped(field) for field in line.split("\t")]
        if len(fields) != 2:
            found = f"the line has {len(fields) - 1} tabs"
            raise DataError(f"{path}:{number}: expected source, tab, target, but {found}{_hint(path, text)}")
        if not all(fields):
            raise DataError(f"{path}:{number}: the {'target' if fields[0] else 'source'} is empty")
        pairs.append((fields[0], fields[1]))
    return pairs


def _hint(path: Path, text: str) -> str:
    found = name_markup(path.with_suffix("").name, text)
    return f"; the file looks like {found[0]}: --data.dataset table_pairs reads two of its columns" if found else ""


def _tails(documents: Sequence[str], shares: Mapping[str, float]) -> dict[str, list[str]]:
    """Cut the shares from the end of each document, at a line end if there is one nearby."""
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    for document in documents:
        rest = document
        for split, share in shares.items():
            if not share:
                continue
            start = max(0, len(rest) - max(1, round(share * len(document))))
            line = rest.rfind("\n", 0, start) + 1
            start = line if line > start // 2 else start
            splits[split] += filter(None, [rest[start:]])
            rest = rest[:start]
        splits["train"] += filter(None, [rest])
    return splits


OTHERS: dict[str, tuple[str, ...]] = {"validation": ("train",), "test": ("train", "validation")}
"""The splits whose text should not be in a split."""
_MEMORY = 4  # bytes for each byte of text: the text, and its tokens
READERS: dict[str, Callable[[Files], Corpus]] = {"text": read_text, "pairs": read_pairs}
