"""A corpus: documents or pairs in three splits, and the facts that a run logs about them."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from blockformer.data import cache
from blockformer.data.progress import stage

SPLITS = ("train", "validation", "test")
Pair = tuple[str, str]


@dataclass(frozen=True)
class Labelled:
    """A text, or a pair of texts that is read as one, with a number to predict.

    Args:
        texts: One text or two.
        label: The index of a class, or a score.
    """

    texts: tuple[str, ...]
    label: float


@dataclass(frozen=True)
class Chat:
    """A conversation.

    Args:
        messages: Each a mapping with the texts `role` and `content`, and perhaps other JSON values; one with
            `tool_calls` may lack the content.
        where: The file and line that it is from, for messages.
        tools: JSON schemas of functions that the assistant can call; None: it knows of none.
    """

    messages: Sequence[Mapping[str, Any]]
    where: str = field(compare=False)
    tools: Sequence[Mapping[str, Any]] | None = None

    @property
    def contents(self) -> tuple[str, ...]:
        """What was said."""
        return tuple(message.get("content") or "" for message in self.messages)


Document = TypeVar("Document", str, Pair)


@dataclass(frozen=True)
class Corpus:
    """Text to train on, in splits that share no document.

    Args:
        splits: Documents (str), pairs (source, target) or labelled texts of each of "train", "validation" and "test".
        paired: Whether the splits contain pairs.
        facts: Its origin: name, versions, settings; JSON values.
        notes: What a user should know about the text of a split, in sentences.
        labelled: The number of texts in each of its labelled texts; 0: it has none.
        chats: Whether the splits contain conversations.
    """

    splits: Mapping[str, Sequence[Any]]
    paired: bool
    facts: Mapping[str, Any]
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict, compare=False)
    labelled: int = 0
    chats: bool = False

    def stream(self) -> Iterator[tuple[str, Any]]:
        """All documents or pairs, each with its split; in any order of the splits, and in a fixed one in each."""
        for split in SPLITS:
            yield from ((split, document) for document in self.splits[split])

    def size(self) -> int:
        """Bytes of all texts in UTF-8."""
        return sum(size_of(document) for _, document in self.stream())

    def watched(self, what: str) -> Iterator[tuple[str, Any]]:
        """:meth:`stream`, while it is shown how far it is.

        Args:
            what: What is done with the documents, such as "encoding".
        """
        with stage(what, self.size()) as one:
            for split, document in self.stream():
                yield split, document
                one.advance(size_of(document))

    def texts(self, split: str, what: str = "reading") -> Iterable[str]:
        """All texts of a split, for pairs both sides, while it is shown how far the corpus has been read.

        Args:
            split: "train", "validation" or "test".
            what: What is done with the texts.
        """
        for of, document in self.watched(what):
            if of == split:
                yield from texts_of(document)

    def sample(self, split: str, size: int, what: str = "reading") -> Iterable[str]:
        """The texts of whole documents of a split that are chosen at random; each process chooses the same.

        Args:
            split: "train", "validation" or "test".
            size: About so many bytes of a corpus in UTF-8; all of the split if the corpus is not larger.
            what: What is done with the texts.
        """
        share, number = size / max(1, self.size()), 0
        for of, document in self.watched(what):
            if of == split:
                number += 1
                if share >= 1 or number == 1 or uniform(number) < share:  # the first one, so that there is one
                    yield from texts_of(document)

    def sha256(self) -> str:
        """The hash of all texts, their order and their splits."""
        digests = {str(split): hashlib.sha256() for split in SPLITS}
        counts: dict[str, int] = dict.fromkeys(SPLITS, 0)
        for split, document in self.watched("hashing"):
            counts[split] += 1
            for text in (*texts_of(document), *_more_of(document)):
                data = text.encode()
                digests[split].update(b"%d\n" % len(data))
                digests[split].update(data)
        whole = "".join(f"{split} {counts[split]} {digests[split].hexdigest()}\n" for split in SPLITS)
        return hashlib.sha256(whole.encode()).hexdigest()


@dataclass(frozen=True)
class StreamedCorpus(Corpus):
    """A corpus that may be larger than the memory: it is read from its files whenever it is needed.

    Args:
        read: Reads all documents or pairs, each with its split.
        bytes: Bytes of all texts in UTF-8.
    """

    read: Callable[[], Iterator[tuple[str, Any]]] = field(kw_only=True)
    bytes: int = field(kw_only=True)

    def stream(self) -> Iterator[tuple[str, Any]]:
        return self.read()

    def size(self) -> int:
        return self.bytes


@dataclass(frozen=True)
class Source:
    """Where a corpus comes from.

    Args:
        key: Everything that decides the text, found without reading it; JSON values.
        read: Reads the text.
        chats: Whether it is conversations, which a chat template makes texts of.
        template: The text of a chat template that takes the place of the tokenizer's, and where it is from.
    """

    key: Mapping[str, Any]
    read: Callable[[], Corpus]
    chats: bool = False
    template: tuple[str, str] | None = None


def uniform(number: int) -> float:
    """A number from 0 to 1 that depends on ``number`` only, and looks random."""
    return int.from_bytes(hashlib.blake2b(number.to_bytes(8), digest_size=6).digest()) / 2**48


def texts_of(document: str | Sequence[str] | Labelled | Chat) -> Sequence[str]:
    """The texts of a document, a pair, a labelled text or a conversation."""
    if isinstance(document, Labelled):
        return document.texts
    if isinstance(document, Chat):
        return document.contents
    return (document,) if isinstance(document, str) else document


def _more_of(document: Any) -> tuple[str, ...]:
    """What else decides its hash: a label, or who said what in a conversation, and its tools."""
    if isinstance(document, Labelled):
        return (repr(document.label),)
    if isinstance(document, Chat):
        return tuple(json.dumps(one) for one in (document.messages, document.tools) if one is not None)
    return ()


def size_of(document: str | Sequence[str] | Labelled | Chat) -> int:
    """Bytes of the texts in UTF-8."""
    return sum(len(text) if text.isascii() else len(text.encode()) for text in texts_of(document))


def cached_corpus(kind: str, key: Mapping[str, Any], make: Callable[[], Corpus]) -> Corpus:
    """The corpus for `key` from the cache; made and stored there if it is missing."""

    def build(folder: Path) -> None:
        corpus = make()
        content = {"splits": dict(corpus.splits), "paired": corpus.paired, "facts": dict(corpus.facts)}
        (folder / "corpus.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    content = json.loads((cache.cached(kind, key, build) / "corpus.json").read_text(encoding="utf-8"))
    if content["paired"]:
        content["splits"] = {name: [(s, t) for s, t in pairs] for name, pairs in content["splits"].items()}
    return Corpus(**content)


def held_out(
    documents: Sequence[Document], shares: Mapping[str, float], key: Callable[[Document], str]
) -> dict[str, list]:
    """Split documents by a hash of their keys, independent of their order and of a seed.

    Args:
        documents: The documents to split; each split keeps their order.
        shares: The share of keys for "validation" and "test"; at least one key if the share is above 0.
        key: Documents with equal keys stay together.
    """
    keys = sorted({key(document) for document in documents}, key=lambda k: hashlib.sha256(k.encode()).digest())
    place = dict.fromkeys(keys, "train")
    start = 0
    for split, share in shares.items():
        end = start + math.ceil(share * len(keys))
        place.update(dict.fromkeys(keys[start:end], split))
        start = end
    splits: dict[str, list] = {split: [] for split in SPLITS}
    for document in documents:
        splits[place[key(document)]].append(document)
    return splits
