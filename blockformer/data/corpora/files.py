"""The user's own text: UTF-8 files, or files of tab-separated pairs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from blockformer.data import plain_text
from blockformer.data.corpora.corpus import SPLITS, Corpus, Pair, Source, held_out
from blockformer.errors import DataError


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
        """The files of every split, in a fixed order."""
        return {split: _expand(getattr(self, split)) for split in SPLITS}

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
    stamps = {split: [_stamp(path) for path in paths] for split, paths in files.own().items()}
    key = {"dataset": dataset, "files": stamps, "shares": dict(files.shares), "format": 1}
    return Source(key, partial(READERS[dataset], files))


def _stamp(path: Path) -> tuple[str, int, int, int, int]:
    """Path, size, times of modification and of change, inode: every write moves the time of change."""
    try:
        about = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    return str(path.resolve()), about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino


def read_text(files: Files) -> Corpus:
    """Read plain text; each file is a document.

    With enough files, whole files are held out; with fewer, the end of each file.

    Raises:
        DataError: A file is missing, empty or not UTF-8.
    """
    own = files.own()
    splits = {split: [plain_text.read(path) for path in paths] for split, paths in own.items()}
    shares = files.taken()
    if all(share * len(splits["train"]) >= 1 for share in shares.values() if share):
        taken = held_out(splits["train"], shares, str)
    else:
        taken = _tails(splits["train"], shares)
    return _corpus("text", own, taken | {split: splits[split] for split in files.given()}, paired=False)


def read_pairs(files: Files) -> Corpus:
    """Read pairs, one a line: source, tab, target. Pairs with the same source are held out together.

    Raises:
        DataError: A file is missing, empty or not UTF-8, or a line is not a pair.
    """
    own = files.own()
    splits = {split: [pair for path in paths for pair in _read_pairs(path)] for split, paths in own.items()}
    taken = held_out(splits["train"], files.taken(), lambda pair: pair[0])
    return _corpus("pairs", own, taken | {split: splits[split] for split in files.given()}, paired=True)


def _corpus(
    dataset: str, own: Mapping[str, Sequence[Path]], splits: Mapping[str, Sequence[Any]], paired: bool
) -> Corpus:
    if not splits["train"]:
        raise DataError(
            f"{dataset}: too little text: validation and test leave nothing to train on; lower their shares"
        )
    return Corpus(
        splits, paired, {"dataset": dataset, "files": {s: [p.name for p in paths] for s, paths in own.items()}}
    )


def _expand(patterns: Sequence[str]) -> list[Path]:
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        relative = str(path.relative_to(path.anchor))
        matches = [path] if path.exists() else sorted(Path(path.anchor).glob(relative))
        if not matches:
            raise DataError(f"{pattern}: no such file")
        for match in matches:
            if match.is_dir():
                raise DataError(f"{match}: is a folder; name files, or a pattern such as {match}/*.txt")
            found[match] = None
    return list(found)


def _read_pairs(path: Path) -> list[Pair]:
    pairs: list[Pair] = []
    for number, line in enumerate(plain_text.lines(plain_text.read(path)), start=1):
        if not line.strip():
            continue
        fields = [plain_text.stripped(field) for field in line.split("\t")]
        if len(fields) != 2:
            raise DataError(f"{path}:{number}: expected source, tab, target, but the line has {len(fields) - 1} tabs")
        if not all(fields):
            raise DataError(f"{path}:{number}: the {'target' if fields[0] else 'source'} is empty")
        pairs.append((fields[0], fields[1]))
    return pairs


def _tails(documents: Sequence[str], shares: Mapping[str, float]) -> dict[str, list[str]]:
    """Cut the shares from the end of each document, at a line end if there is one nearby."""
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    for document in documents:
        rest = document
        for split, share in shares.items():
            start = len(rest) - round(share * len(document))
            line = rest.rfind("\n", 0, start) + 1
            start = line if line > start // 2 else start
            splits[split] += filter(None, [rest[start:]])
            rest = rest[:start]
        splits["train"] += filter(None, [rest])
    return splits


READERS: dict[str, Callable[[Files], Corpus]] = {"text": read_text, "pairs": read_pairs}
