"""Rows of a mixture: those of each source, cut as the objective needs them, with one tokenizer."""

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from blockformer.data import cache
from blockformer.data.datasets.mixture import Mixture, naming
from blockformer.data.mixed_samples import MixedSamples, MixtureOrder
from blockformer.data.row_schedule import RowSchedule, whole_numbers
from blockformer.data.samples import SampleMaker
from blockformer.data.text_rows import TextRows
from blockformer.data.tokenizer import Tokenizer
from blockformer.data.tokenizers import stored
from blockformer.data.tokenizers.base import GivenTokenizer, LearnedTokenizer, TokenizerComponent
from blockformer.errors import DataError


class MixedRows:
    """The rows of a mixture, by split.

    Args:
        mixture: the sources and their weights.
        parts: the rows of each source, by name.
        component: how the text becomes token ids.

    Raises:
        DataError: the weights have too many digits.
    """

    def __init__(self, mixture: Mixture, parts: Mapping[str, TextRows], component: TokenizerComponent) -> None:
        self.mixture, self.parts = mixture, dict(parts)
        self._component = component
        self._tokenizer: Tokenizer | None = None
        self._same_template = not mixture.chats
        self._schedule = RowSchedule(whole_numbers(mixture.weights))
        self.shares = dict(zip(self.parts, self._schedule.weights / self._schedule.weights.sum(), strict=True))

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the sources."""
        return tuple(self.parts)

    @property
    def _first(self) -> TextRows:
        return next(iter(self.parts.values()))

    def configure(self, objective: SampleMaker) -> None:
        """Set the objective of all sources."""
        for part in self.parts.values():
            part.configure(objective)

    def use(self, tokenizer: Tokenizer) -> None:
        """Encode with this tokenizer instead of learning one."""
        self._tokenizer = tokenizer
        for part in self.parts.values():
            part.use(tokenizer)

    def prepare(self, *, verify: bool) -> None:
        """Learn the tokenizer, unless it was given, and put the tokens of each source on disk.

        Args:
            verify: compare the cached files with their checksums.

        Raises:
            DataError: a source cannot be read; the message names it.
        """
        if not self._same_template:
            self.mixture.source(self._first.shares)  # refuses templates that differ
            self._same_template = True
        if self._tokenizer is None:
            component = self._component
            learned = isinstance(component, LearnedTokenizer)
            self.use(self._learned(component) if learned else cast("GivenTokenizer", component).read())
        used: list[Tokenizer] = []
        for name, part in self.parts.items():
            with naming(name):
                used.append(part.prepare(verify=verify).tokenizer)
        for one in used:
            one.exact = all(other.exact for other in used)  # the bytes of all sources are known, or of none

    def _learned(self, component: LearnedTokenizer) -> Tokenizer:
        """The tokenizer of the training text of all sources, from the cache if it is there."""
        source = self.mixture.source(self._first.shares)

        def build(folder: Path) -> None:
            made = component.learn(
                partial(source.read().sample, "train", component.learn_bytes, "training the tokenizer")
            )
            (folder / "tokenizer.json").write_text(json.dumps(made.dump()), encoding="utf-8")

        key = {**source.key, **component.key, "format": 1}
        text = (cache.cached("tokenizer", key, build) / "tokenizer.json").read_text(encoding="utf-8")
        return stored.from_dump(json.loads(text))

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; prepares the data at the first use."""
        self.prepare(verify=True)
        return self._first.tokenizer

    @property
    def vocab_size(self) -> int:
        """The number of token ids: those of the tokenizer, which may be fewer than asked for, and the objective's."""
        self.prepare(verify=True)
        return self._first.vocab_size

    @property
    def extra_tokens(self) -> Mapping[str, int]:
        """The ids of the objective's own tokens by name: special tokens of the tokenizer, or ids after its own."""
        return self._first.extra_tokens

    @property
    def longest(self) -> int:
        """Tokens in the longest row of any split."""
        return self._first.longest

    def facts(self) -> dict[str, Any]:
        """Facts to log: of each source its weight, its share of the rows, and its own facts."""
        self.prepare(verify=True)
        found = {name: part.facts() for name, part in self.parts.items()}
        whole = [(name, int(w), found[name]["sha256"]) for name, w in zip(found, self._schedule.weights, strict=True)]
        common = {key: found[self.sources[0]][key] for key in ("tokenizer", "vocab_size")}
        return {
            "dataset": "mixture",
            "sources": {
                name: {"weight": self.mixture.weights[name], "share": float(self.shares[name])}
                | {key: value for key, value in facts.items() if key not in common}
                for name, facts in found.items()
            },
            "sha256": hashlib.sha256(json.dumps(whole).encode()).hexdigest(),
            **common,
            **{split: _sums([facts[split] for facts in found.values()]) for split in ("train", "validation", "test")},
        }

    def notes(self, *splits: str) -> list[str]:
        """What a user should know about the text of these splits, source by source."""
        self.prepare(verify=True)
        return [f"{name}: {note}" for name, part in self.parts.items() for note in part.notes(*splits)]

    def check(self, split: str, least: int) -> None:
        """Check that each source has rows to train on, and that enough pairs are left.

        Raises:
            DataError: one has none; the message names it.
        """
        self.prepare(verify=True)
        for name, part in self.parts.items():
            with naming(name):
                part.check(split, 1)
                if split == "train" and not len(part.samples(split)):
                    raise DataError("there is nothing to train on")

    def samples(self, split: str) -> MixedSamples:
        """The samples of a split of all sources, as the objective needs them."""
        self.prepare(verify=True)
        return MixedSamples([part.samples(split) for part in self.parts.values()], self.tokenizer.pad)

    def order(self, samples: MixedSamples, batch_size: int, seed: int) -> MixtureOrder:
        """The order in which the training samples are read."""
        return MixtureOrder(samples, self.sources, self._schedule, batch_size, seed)

    def epochs(self, samples: MixedSamples, rows: int) -> dict[str, float]:
        """How often each source has been read.

        Args:
            samples: those of training.
            rows: rows of the run so far, over all processes.
        """
        counts = self._schedule.counts(rows)
        return {name: float(n / len(part)) for name, n, part in zip(self.parts, counts, samples.parts, strict=True)}


def _sums(counts: list[dict[str, int]]) -> dict[str, int]:
    """Documents or pairs, tokens and bytes of all sources; some counts are those of a few sources."""
    keys = dict.fromkeys(key for one in counts for key in one)
    return {key: sum(one.get(key, 0) for one in counts) for key in keys}
