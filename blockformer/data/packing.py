"""Documents packed into rows without cutting those that fit: which pieces each row has, from files of the cache."""

import json
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from blockformer.data import cache
from blockformer.data.best_fit import RowKind, best_fit_decreasing
from blockformer.data.corpora.corpus import SPLITS
from blockformer.data.samples import EqualRows, Samples, TokenizedText
from blockformer.data.sequences import Sequences

_STARTS, _COUNTS = "starts.int64", "counts.json"


class Pieces(NamedTuple):
    """Documents in pieces of at most the length of a row.

    A document that is longer than a row is cut into whole rows and the rest, if there is one.

    Attributes:
        counts: (L + 1,) how many pieces have 0, 1, ..., L tokens.
        starts: (P,) where each piece begins among all tokens, from the longest to the shortest and then as they come.
        cut: how many documents were cut.
    """

    counts: NDArray[np.int64]
    starts: NDArray[np.int64]
    cut: int


class PackedText(EqualRows):
    """Rows of whole documents, placed by best fit. A document longer than a row has rows of its own and a rest.

    Only the lengths of the pieces are counted in memory; their places are in a file, which is mapped.

    Args:
        text: The documents, and L, the most tokens in a row.
    """

    def __init__(self, text: TokenizedText) -> None:
        self.text, self._length = text, text.length
        self.pieces = _kept(text) if text.key is not None else cut_up(text.documents, text.length)
        self._kinds = best_fit_decreasing(self.pieces.counts.tolist())
        self._ends = np.cumsum([kind.rows for kind in self._kinds], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def places(self, chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the tokens of rows are among all tokens, and the pieces that they belong to.

        Args:
            chosen: (B,) numbers of rows.

        Returns:
            (B, L) places, -1 for padding; and (B, L) the number of each token's piece in its row, counted from 1,
            L + 1 for padding.
        """
        places = np.full((len(chosen), self._length), -1)
        pieces = np.full_like(places, self._length + 1)
        for row, number in enumerate(chosen):
            of = int(np.searchsorted(self._ends, number, side="right"))
            kind = self._kinds[of]
            within = int(number) - int(self._ends[of]) + kind.rows
            sizes = np.repeat([size for size, _, _ in kind.parts], [each for _, each, _ in kind.parts])
            starts = self.pieces.starts[_numbers(kind, within)]
            before = np.cumsum(sizes) - sizes
            total = int(sizes.sum())
            places[row, :total] = np.repeat(starts - before, sizes) + np.arange(total)
            pieces[row, :total] = np.repeat(np.arange(1, len(sizes) + 1), sizes)
        return places, pieces

    def facts(self) -> dict[str, float]:
        """Rows, the share of their places that is padding, and how many documents were cut."""
        places = len(self) * self._length
        tokens = int(self.pieces.counts @ np.arange(self._length + 1))
        padding = round(1 - tokens / places, 6) if places else 0.0
        return {"rows": len(self), "padding": padding, "documents_cut": self.pieces.cut}


def _numbers(kind: RowKind, within: int) -> NDArray[np.int64]:
    """The numbers of the pieces of a row, of which there are `within` before it."""
    return np.concatenate([np.arange(each) + (first + within * each) for _, each, first in kind.parts])


def cut_up(documents: Sequences, length: int, starts: Path | None = None) -> Pieces:
    """Cut documents into pieces of at most `length` tokens, reading only where they begin, twice and in parts.

    Args:
        documents: Token sequences.
        length: The most tokens in a piece.
        starts: A file to write the places of the pieces to; None: they are kept in memory.
    """
    counts, cut = np.zeros(length + 1, np.int64), 0
    for bounds in documents.bounds():
        _, sizes = _pieces_of(bounds, length)
        counts += np.bincount(sizes, minlength=length + 1)
        cut += int((np.diff(bounds) > length).sum())
    total = int(counts.sum())
    if starts is None or not total:
        places: NDArray[np.int64] = np.empty(total, np.int64)
    else:
        places = np.memmap(starts, np.int64, mode="w+", shape=(total,))
    following = counts[::-1].cumsum()[::-1] - counts  # the place of the next piece of each length
    for bounds in documents.bounds():
        begins, sizes = _pieces_of(bounds, length)
        order = np.argsort(sizes, kind="stable")
        own = np.bincount(sizes, minlength=length + 1)
        first = np.cumsum(own) - own
        ordered = sizes[order]
        places[following[ordered] + np.arange(len(ordered)) - first[ordered]] = begins[order]
        following += own
    if isinstance(places, np.memmap):
        places.flush()
    return Pieces(counts, places, cut)


def _pieces_of(bounds: NDArray[np.int64], length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the pieces of consecutive documents begin, and how many tokens they have."""
    begins, sizes = bounds[:-1], np.diff(bounds)
    whole, rest = np.divmod(sizes, length)
    numbers = np.arange(int(whole.sum())) - np.repeat(np.cumsum(whole) - whole, whole)
    rows, left = np.repeat(begins, whole) + length * numbers, rest > 0
    starts = np.concatenate((rows, (begins + whole * length)[left]))
    return starts, np.concatenate((np.full(len(rows), length), rest[left]))


def _kept(text: TokenizedText) -> Pieces:
    """The pieces of a text, from the cache."""

    def build(folder: Path) -> None:
        made = cut_up(text.documents, text.length, folder / _STARTS)
        (folder / _COUNTS).write_text(json.dumps({"counts": made.counts.tolist(), "cut": made.cut}), encoding="utf-8")

    folder = cache.cached("packing", {**(text.key or {}), "length": text.length, "format": 1}, build)
    about = json.loads((folder / _COUNTS).read_text(encoding="utf-8"))
    counts = np.array(about["counts"], np.int64)
    starts = np.memmap(folder / _STARTS, np.int64, mode="r") if counts.any() else np.zeros(0, np.int64)
    return Pieces(counts, starts, about["cut"])


class _Splits(Protocol):
    objective: Any

    def samples(self, split: str) -> Samples: ...


def packing_facts(rows: _Splits) -> dict[str, Any]:
    """How the documents of each split are packed into rows, if they are, under the key `packing`."""
    if rows.objective is None or not isinstance(rows.samples("train"), PackedText):
        return {}
    samples = {split: rows.samples(split) for split in SPLITS}
    return {"packing": {split: own.facts() for split, own in samples.items() if isinstance(own, PackedText)}}
