"""Rows of token ids that were made elsewhere."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from blockformer.data.corpora.files import stamps_of, unchanged
from blockformer.data.corpora.token_files import (
    Scan,
    TokenFile,
    check_ids,
    next_document,
    recognise,
    scan,
    span,
)
from blockformer.data.datasets.base import UNSCORED
from blockformer.data.datasets.token_files import TokenFiles
from blockformer.data.packing import packing_facts
from blockformer.data.progress import stage
from blockformer.data.samples import SampleMaker, Samples, TokenizedText
from blockformer.data.sequences import Sequences, Shards
from blockformer.data.tokenizer import Tokenizer
from blockformer.errors import DataError

_AT_ONCE = 2**20  # ids


@dataclass
class Separator:
    """The special tokens of ids without a tokenizer: what separates documents begins each one and ends it.

    Args:
        bos: The separator; -1, which no id is: there is none.
    """

    bos: int
    pad: int = 0
    byte_lengths: None = None

    @property
    def eos(self) -> int:
        """The target of a document's last token; without a separator the last token of all has none."""
        return UNSCORED if self.bos < 0 else self.bos


@dataclass(frozen=True)
class UnlistedSequences(Sequences):
    """Documents that are only known by the separator between them, so that no list of them is kept.

    Args:
        separator: the id that begins each document but the first; None: there is one document.
    """

    separator: int | None

    def __len__(self) -> int:
        return 1 if self.separator is None else 2

    def bounds(self) -> Iterator[NDArray[np.int64]]:
        end = np.zeros(1, np.int64)
        for start in range(0, len(self.flat), _AT_ONCE):
            places = np.arange(start, min(start + _AT_ONCE, len(self.flat)))
            begins = np.flatnonzero(self.flat[places] == self.separator) + start
            found = np.concatenate((end, begins[begins > 0]))
            end = found[-1:]
            if len(found) > 1:
                yield found
        yield np.append(end, len(self.flat))


class TokenRows:
    """The rows of files of token ids, by split.

    Args:
        dataset: which files.
        shares: the share of the ids to hold out for "validation" and for "test", at the end.
        length: tokens in a row.
        objective: what the rows are for; None: not known yet.
        seed: of what the objective draws at random.
    """

    tokenizer = None

    def __init__(
        self,
        dataset: TokenFiles,
        shares: Mapping[str, float],
        length: int,
        objective: SampleMaker | None,
        seed: int,
    ) -> None:
        self.dataset, self.shares, self.length, self.seed = dataset, shares, length, seed
        self.objective = objective
        self._scans: dict[str, list[tuple[TokenFile, Scan]]] | None = None
        self._spans: dict[str, Shards] = {}
        self._samples: dict[str, Samples] = {}

    @property
    def vocab_size(self) -> int:
        """The number of token ids: those of the files, and the objective's."""
        return self.dataset.vocab_size + len(self.extra_tokens)

    @property
    def extra_tokens(self) -> Mapping[str, int]:
        """The ids of the objective's own tokens by name, which come after those of the files."""
        names = () if self.objective is None else self.objective.extra_tokens(self.length)
        return {name: self.dataset.vocab_size + number for number, name in enumerate(names)}

    @property
    def longest(self) -> int:
        """Tokens in the longest row of any split."""
        return self.length

    def configure(self, objective: SampleMaker) -> None:
        """Set the objective, which makes the rows."""
        self.objective, self._samples = objective, {}

    def prepare(self, *, verify: bool) -> None:
        """Check all files, unless that was done before, and map them.

        Args:
            verify: nothing; what was found in a file is kept until the file changes.

        Raises:
            DataError: a file holds no ids, or one that is outside of the vocabulary.
        """
        if self._scans is not None:
            return
        files = self.dataset.own(self.shares)
        stamps = stamps_of(files)
        known = {split: [recognise(path, self.dataset.dtype) for path in paths] for split, paths in files.own().items()}
        with stage("checking the ids", sum(file.size for own in known.values() for file in own)) as checking:
            scans = {
                split: [(file, scan(file, self.dataset.separator, checking)) for file in own]
                for split, own in known.items()
            }
        unchanged(files, stamps)
        for file, found in (one for own in scans.values() for one in own):
            check_ids(file, found, self.dataset.vocab_size)
        self._spans = self._split(known, files.taken())
        if not len(self._spans["train"]):
            raise DataError("token_files: validation and test leave nothing to train on; lower their shares")
        self._scans = scans

    def _split(self, known: Mapping[str, list[TokenFile]], taken: Mapping[str, float]) -> dict[str, Shards]:
        """The ids of each split; one without files of its own is cut from the end, at the beginning of a document."""
        own, separator = known["train"], self.dataset.separator
        count = end = sum(file.count for file in own)
        spans = {split: Shards(span(files, 0, sum(file.count for file in files))) for split, files in known.items()}
        for split, share in taken.items():
            start = end - round(share * count)
            start = start if separator is None or start == end else next_document(own, start, end, separator)
            spans[split], end = Shards(span(own, start, end)), start
        return {**spans, "train": Shards(span(own, 0, end))}

    def facts(self) -> dict[str, Any]:
        """Facts to log: the files, the hash of all ids and how they are split, tokens and documents."""
        self.prepare(verify=True)
        assert self._scans is not None
        tokens = {split: len(shards) for split, shards in self._spans.items()}
        return {
            "dataset": "token_files",
            "files": {split: [file.path.name for file, _ in own] for split, own in self._scans.items()},
            "sha256": self._sha256(),
            "vocab_size": self.dataset.vocab_size,
            "separator": self.dataset.separator,
            "documents": sum(found.documents for own in self._scans.values() for _, found in own),
            **{split: {"tokens": number} for split, number in tokens.items()},
            **packing_facts(self),
        }

    def _sha256(self) -> str:
        """The hash of the ids of all files, and of how they are split."""
        assert self._scans is not None
        whole: dict[str, Any] = {split: [found.sha256 for _, found in own] for split, own in self._scans.items()}
        whole["tokens"] = {split: len(shards) for split, shards in self._spans.items()}
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()

    def notes(self, *splits: str) -> list[str]:
        """What a user should know about the ids."""
        facts = self.facts()
        found = (
            []
            if facts["separator"] is None or facts["documents"]
            else [f"no id is data.separator {facts['separator']}"]
        )
        if "validation" in splits and self.shares["validation"] and not facts["validation"]["tokens"]:
            found.append("there is nothing to validate on")
        return found

    def check(self, split: str, least: int) -> None:
        """Do nothing: no row is left out."""

    def samples(self, split: str) -> Samples:
        """The rows of a split, as the objective makes them.

        Raises:
            DataError: there is no objective.
        """
        if self.objective is None:
            raise DataError("token ids make rows for an objective: give one, such as TextData(objective=CausalLM())")
        if split in self._samples:
            return self._samples[split]
        self.prepare(verify=True)
        separator = self.dataset.separator
        documents = UnlistedSequences(self._spans[split], np.zeros(0, np.int64), separator)
        special = Separator(-1 if separator is None else separator)
        evaluates = split != "train"
        # of a tokenizer, prediction of the next token needs no more
        known = (documents,), cast("Tokenizer", special), self.length, 0 if evaluates else self.seed, evaluates
        key = {"ids": self._sha256(), "split": split, "separator": separator}
        text = TokenizedText(*known, self.extra_tokens, key=key)
        return self._samples.setdefault(split, self.objective.samples(text))
