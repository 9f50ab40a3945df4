"""Rows of text: tokenized, cached, and cut as the objective needs them."""

from collections.abc import Iterator, Mapping
from typing import Any

from blockformer.data.datasets.base import TextDataset
from blockformer.data.labelled_rows import LabelledRows
from blockformer.data.packing import packing_facts
from blockformer.data.prepared import Prepared, prepare
from blockformer.data.samples import SampleMaker, Samples, TokenizedText
from blockformer.data.tokenizer import Tokenizer
from blockformer.data.tokenizers.base import TokenizerComponent
from blockformer.errors import DataError
from registry.text import shortened

_NAMES = {"train": "training", "validation": "validation", "test": "test"}


class TextRows:
    """The rows of a text, by split.

    Args:
        dataset: where the text comes from.
        shares: the share to hold out for "validation" and for "test".
        tokenizer: how the text becomes token ids.
        length: tokens in a row.
        objective: what the rows are for; None: not known yet.
        seed: decides what is drawn at random in the training rows, such as which tokens are masked.
    """

    def __init__(
        self,
        dataset: TextDataset,
        shares: Mapping[str, float],
        tokenizer: TokenizerComponent,
        length: int,
        *,
        objective: SampleMaker | None,
        seed: int,
    ) -> None:
        self.dataset, self.shares, self.length, self.objective = dataset, shares, length, objective
        self._component, self._given = tokenizer, None
        self._seed = seed
        self._prepared: Prepared | None = None
        self._samples: dict[str, Samples] = {}

    def configure(self, objective: SampleMaker) -> None:
        """Set the objective, on which the length of pairs depends."""
        self.objective, self._prepared, self._samples = objective, None, {}

    def use(self, tokenizer: Tokenizer) -> None:
        """Encode with this tokenizer instead of learning one."""
        self._given, self._prepared, self._samples = tokenizer, None, {}

    def prepare(self, *, verify: bool) -> Prepared:
        """Tokens on disk, prepared at the first use.

        Args:
            verify: compare the cached files with their checksums.
        """
        if self._prepared is None:
            longest = self._longest_side if self.dataset.paired else None
            source = self.dataset.source(self.shares)
            self._prepared = prepare(source, self._component, longest, given=self._given, verify=verify)
        return self._prepared

    @property
    def _longest_side(self) -> int:
        """Tokens that a side of a pair may have."""
        return self.length if self.objective is None else self.objective.longest_side(self.length)

    @property
    def _limit(self) -> str:
        """That of the length of a side of a pair, in words."""
        return f"{'half of ' if self._longest_side == self.length // 2 else ''}data.length {self.length}"

    @property
    def prepared(self) -> Prepared:
        """Tokens on disk, prepared and verified at the first use."""
        return self.prepare(verify=True)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; prepares the data at the first use."""
        return self.prepared.tokenizer

    @property
    def vocab_size(self) -> int:
        """The number of token ids: those of the tokenizer, which may be fewer than asked for, and the objective's."""
        return max((self.tokenizer.vocab_size - 1, *self.extra_tokens.values())) + 1

    @property
    def extra_tokens(self) -> Mapping[str, int]:
        """The ids of the objective's own tokens by name: special tokens of the tokenizer, or ids after its own."""
        names = () if self.objective is None else self.objective.extra_tokens(self.length)
        own = {name: token for name in names if (token := self.tokenizer.special_token(name)) is not None}
        new = [name for name in names if name not in own]
        return {**own, **{name: self.tokenizer.vocab_size + number for number, name in enumerate(new)}}

    @property
    def longest(self) -> int:
        """Tokens in the longest row of any split."""
        return self.length

    def facts(self) -> dict[str, Any]:
        """Facts to log: origin and hash of the text, and documents, tokens and bytes of each split."""
        return {**self.prepared.facts, **packing_facts(self)}

    def notes(self, *splits: str) -> list[str]:
        """What a user should know about the text of these splits, in sentences."""
        found = [note for split in splits for note in self.prepared.file_notes.get(split, ())]
        counts = ((split, self._left_out(split)) for split in splits)
        if self.dataset.labelled:
            found += [note for split in splits for note in self._cut(split)]
        elif self.tokenizer.byte_lengths is None:
            kind = self.tokenizer.kind
            found.append(f"bits per byte are left out: tokenizer {kind!r} does not reproduce the text exactly")
        left = [f"{number:,} of {of:,} {_NAMES[split]} pairs" for split, (number, of) in counts if number]
        if left:
            found.append(f"{' and '.join(left)} are longer than {self._limit} and are left out")
        without = [
            f"{number:,} {_NAMES[one]}" for one in splits if (number := self.prepared.facts[one].get("unanswered"))
        ]
        if without:
            found.append(f"{' and '.join(without)} conversations have no answer and are left out")
        held = self.prepared.facts["validation"]
        number = next((held[key] for key in ("pairs", "documents", "conversations") if key in held), 0)
        if "validation" in splits and self.shares["validation"] and not number:
            found.append("there is nothing to validate on")
        return [shortened(note, 1000) for note in found]

    def _cut(self, split: str) -> Iterator[str]:
        """How many labelled texts of a split are longer than a row."""
        samples = self.samples(split) if self.objective is not None else None
        if isinstance(samples, LabelledRows) and (number := samples.cut):
            yield f"{number:,} of {len(samples):,} {_NAMES[split]} texts are longer than {self._limit} and are cut off"

    def _left_out(self, split: str) -> tuple[int, int]:
        """How many pairs of a split are too long, and how many there are."""
        counts = self.prepared.facts[split]
        number = counts.get("too_long", 0)
        return number, number + counts.get("pairs", 0)

    def check(self, split: str, least: int) -> None:
        """Check that enough pairs are left, where some are too long.

        Raises:
            DataError: Fewer than `least` are left; the message names the length that keeps all.
        """
        number, of = self._left_out(split)
        if number and of - number < least:
            longest, side = self.prepared.longest[split], self._longest_side
            longest = 2 * longest if side == self.length // 2 else longest + self.length - side
            few = f", and batch_size is {least}" if number < of else ""
            raise DataError(
                f"{number:,} of {of:,} {_NAMES[split]} pairs are longer than {self._limit}{few}: "
                f"raise --data.length; {longest} keeps all"
            )

    def samples(self, split: str) -> Samples:
        """The samples of a split, as the objective makes them.

        Raises:
            DataError: There is no objective.
        """
        if self.objective is None:
            raise DataError("text makes rows for an objective: give one, such as TextData(objective=CausalLM())")
        if split in self._samples:
            return self._samples[split]
        data, evaluates, labels = self.prepared, split != "train", None
        answers = data.answers(split) if self.dataset.chats else None
        if self.dataset.labelled:
            parts, labels = data.labelled(split)
        else:
            parts = data.pairs(split) if self.dataset.paired else (data.documents(split),)
        seed = 0 if evaluates else self._seed
        key = {"tokens": data.folder.name, "split": split}
        known = parts, self.tokenizer, self.length, seed, evaluates, self.extra_tokens, labels, key, answers
        return self._samples.setdefault(split, self.objective.samples(TokenizedText(*known)))
