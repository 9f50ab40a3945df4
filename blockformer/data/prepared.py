"""Tokenization of a corpus: token arrays on disk, a tokenizer and facts."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from blockformer.data import cache
from blockformer.data.chat_renderer import check_template
from blockformer.data.chat_template import ChatTemplate
from blockformer.data.corpora.corpus import SPLITS, Corpus, Source
from blockformer.data.encoding import encode
from blockformer.data.sequences import Sequences, Shards, read_labels
from blockformer.data.tokenizer import Tokenizer
from blockformer.data.tokenizers import stored
from blockformer.data.tokenizers.base import GivenTokenizer, LearnedTokenizer, TokenizerComponent
from blockformer.errors import DataError


@dataclass(frozen=True)
class Prepared:
    """Tokenized text in splits.

    Args:
        folder: Folder of the arrays.
        tokenizer: Their tokenizer; one that is learned has seen the training split alone.
        paired: Whether the text is pairs.
        facts: Facts to log about the text and its tokens.
        longest: Of pairs, the tokens of the longest side in each split, pairs that are left out included.
        file_notes: What a user should know about the text of each split, in sentences.
    """

    folder: Path
    tokenizer: Tokenizer
    paired: bool
    facts: Mapping[str, Any]
    longest: Mapping[str, int] = field(default_factory=dict)
    file_notes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def documents(self, split: str) -> Sequences:
        """The documents of a split, each after a BOS."""
        return Sequences.open(self.folder, split)

    def pairs(self, split: str) -> tuple[Sequences, Sequences]:
        """The sources of a split, each before an EOS, and the targets, each after a BOS."""
        return Sequences.open(self.folder, f"{split}.source"), Sequences.open(self.folder, f"{split}.target")

    def answers(self, split: str) -> Shards:
        """Of the tokens of conversations, whether each is part of an answer."""
        return Sequences.open(self.folder, f"{split}.answers").flat

    def labelled(self, split: str) -> tuple[tuple[Sequences, ...], NDArray[np.float64]]:
        """The texts of a split, one or two to a row and without special tokens, and the labels of the rows."""
        parts = len([*self.folder.glob(f"{split}.text*.offsets.*")])
        texts = tuple(Sequences.open(self.folder, f"{split}.text{part}") for part in range(parts))
        return texts, read_labels(self.folder, split)


def prepare(
    source: Source,
    component: TokenizerComponent,
    longest: int | None = None,
    *,
    given: Tokenizer | None = None,
    verify: bool = True,
) -> Prepared:
    """Learn or read a tokenizer and encode a corpus, or find both in the cache; then the text itself is not read.

    An index entry leads from the source's key to the tokens. The tokens are stored under the hash of the text, so that
    the same text from another place is not encoded again.

    Args:
        source: Where the text comes from.
        component: How the text becomes token ids.
        longest: Leave out pairs with more tokens on a side.
        given: Encode with this tokenizer instead of the component's; of conversations it gets the source's template.
        verify: Compare the cached files with their checksums, and rebuild damaged ones; False where another process of
            this machine has just done so.
    """
    if given is None and isinstance(component, GivenTokenizer):
        given = component.read()
    template = _chat_template(source, given)
    settings: dict[str, Any] = {"longest": longest, **({} if template is None else {"chat_template": template.text})}
    learned = settings | component.key if isinstance(component, LearnedTokenizer) else None
    if learned is not None and (given is None or _learned_here(source, learned, given)):
        settings = learned
    elif given is not None:
        settings["tokenizer"] = _digest(given)

    def write_index(folder: Path) -> None:
        if template is not None:
            check_template(template)  # before all is read
        corpus = source.read()
        sha256 = corpus.sha256()
        tokens = _tokens(corpus, sha256, settings, made)
        whole = sha256 if template is None else hashlib.sha256((sha256 + template.text).encode()).hexdigest()
        facts = {**corpus.facts, "sha256": whole}
        about = {"tokens": tokens.name, "paired": corpus.paired, "facts": facts, "notes": dict(corpus.notes)}
        (folder / "index.json").write_text(json.dumps(about), encoding="utf-8")

    def learn(corpus: Corpus) -> Tokenizer:
        one = cast("LearnedTokenizer", component)
        learned = one.learn(partial(corpus.sample, "train", one.learn_bytes, "training the tokenizer"))
        if template is not None:
            learned.use_template(template.text, template.origin)
        return learned

    made = given or learn
    index = cache.cached("index", _index_key(source, settings), write_index)
    about = json.loads((index / "index.json").read_text(encoding="utf-8"))
    folder = cache.root() / about["tokens"]
    if not (cache.intact(folder) if verify else folder.is_dir()):
        corpus = source.read()
        folder = _tokens(corpus, corpus.sha256(), settings, made)
    content = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
    used = stored.from_dump(content["tokenizer"])
    facts = {**about["facts"], "tokenizer": used.kind, **content["facts"]}
    if any(content["facts"][split].get("changed") for split in SPLITS):
        used.exact = False
    return Prepared(folder, used, about["paired"], facts, content["longest"], about["notes"])


def _chat_template(source: Source, given: Tokenizer | None) -> ChatTemplate | None:
    """The template of conversations, which the given tokenizer gets too; None: the texts are no conversations.

    Raises:
        DataError: There is none.
    """
    if not source.chats:
        return None
    if source.template is not None and given is not None:
        given.use_template(*source.template)
    elif source.template is not None:
        text, origin = source.template
        return ChatTemplate(text, {}, origin)
    if given is None or given.chat is None:
        raise DataError(
            "the tokenizer has no chat template, which dataset chat needs: name a file by --data.chat_template, or in "
            "the chat_template of each source of a mixture"
        )
    return given.chat


def _index_key(source: Source, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"source": source.key, **settings, "format": 2}


def _learned_here(source: Source, settings: Mapping[str, Any], given: Tokenizer) -> bool:
    """Whether the cache has this text with the tokenizer that was learned from it, and that is the given one."""
    if (index := cache.find("index", _index_key(source, settings))) is None:
        return False
    folder = cache.root() / json.loads((index / "index.json").read_text(encoding="utf-8"))["tokens"]
    if not cache.intact(folder):
        return False
    return json.loads((folder / "prepared.json").read_text(encoding="utf-8"))["tokenizer"] == given.dump()


def _digest(given: Tokenizer) -> str:
    return hashlib.sha256(json.dumps(given.dump(), sort_keys=True).encode()).hexdigest()


def _tokens(
    corpus: Corpus, sha256: str, settings: Mapping[str, Any], made: Tokenizer | Callable[[Corpus], Tokenizer]
) -> Path:
    """The cache entry with a corpus's tokenizer, or the function that learns it, and token arrays."""

    def build(folder: Path) -> None:
        used = made if isinstance(made, Tokenizer) else made(corpus)
        encoded = encode(corpus, used, folder, settings["longest"])
        facts: dict[str, Any] = {split: one.counts for split, one in encoded.items()}
        facts |= {"vocab_size": used.vocab_size, **encoded["validation"].compression.facts()}
        content = {"tokenizer": used.dump(), "facts": facts, "longest": {k: one.longest for k, one in encoded.items()}}
        (folder / "prepared.json").write_text(json.dumps(content), encoding="utf-8")

    return cache.cached("tokens", {"text": sha256, **settings, "format": 4}, build)
