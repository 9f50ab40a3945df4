"""Tokenization of a corpus: token arrays on disk, a tokenizer and facts."""

import hashlib
import json
import lzma
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from blockformer.data import cache, tokenizer
from blockformer.data.corpora.corpus import SPLITS, Corpus, Source
from blockformer.data.sequences import Sequences
from blockformer.data.tokenizer import Tokenizer

_XZ_AT_MOST = 2**24  # bytes; xz takes about a second for 2 MB


@dataclass(frozen=True)
class Prepared:
    """Tokenized text in splits.

    Args:
        folder: Folder of the arrays.
        tokenizer: Their tokenizer; a BPE is learned from the training split alone, unless it was given.
        paired: Whether the text is pairs.
        facts: Facts to log about the text and its tokens.
    """

    folder: Path
    tokenizer: Tokenizer
    paired: bool
    facts: Mapping[str, Any]

    def documents(self, split: str) -> Sequences:
        """The documents of a split, each after a BOS."""
        return Sequences.open(self.folder, split)

    def pairs(self, split: str) -> tuple[Sequences, Sequences]:
        """The sources of a split, each before an EOS, and the targets, each after a BOS."""
        return Sequences.open(self.folder, f"{split}.source"), Sequences.open(self.folder, f"{split}.target")


def prepare(
    source: Source,
    kind: str,
    vocab_size: int,
    longest: int | None = None,
    *,
    given: Tokenizer | None = None,
    verify: bool = True,
) -> Prepared:
    """Train a tokenizer and encode a corpus, or find both in the cache; then the text itself is not read.

    An index entry leads from the source's key to the tokens. The tokens are stored under the hash of the text, so that
    the same text from another place is not encoded again.

    Args:
        source: Where the text comes from.
        kind: "bytes" or "bpe".
        vocab_size: Number of token ids of a BPE.
        longest: Leave out pairs with more tokens on a side.
        given: Encode with this tokenizer instead of training one.
        verify: Compare the cached files with their checksums, and rebuild damaged ones; False where another process of
            this machine has just done so.
    """
    settings: dict[str, Any] = {"tokenizer": kind, "vocab_size": vocab_size, "longest": longest}
    if given is not None and not _learned_here(source, settings, given):
        settings = {"tokenizer": _digest(given), "longest": longest}

    def write_index(folder: Path) -> None:
        corpus = source.read()
        sha256 = corpus.sha256()
        tokens = _tokens(corpus, sha256, settings, made)
        about = {"tokens": tokens.name, "paired": corpus.paired, "facts": {**corpus.facts, "sha256": sha256}}
        (folder / "index.json").write_text(json.dumps(about), encoding="utf-8")

    made = given or partial(tokenizer.train, kind, vocab_size=vocab_size)
    index = cache.cached("index", _index_key(source, settings), write_index)
    about = json.loads((index / "index.json").read_text(encoding="utf-8"))
    folder = cache.root() / about["tokens"]
    if not (cache.intact(folder) if verify else folder.is_dir()):
        corpus = source.read()
        folder = _tokens(corpus, corpus.sha256(), settings, made)
    content = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
    facts = {**about["facts"], "tokenizer": kind, **content["facts"]}
    return Prepared(folder, tokenizer.load(content["tokenizer"]), about["paired"], facts)


def _index_key(source: Source, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"source": source.key, **settings, "format": 1}


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
    corpus: Corpus, sha256: str, settings: Mapping[str, Any], made: Tokenizer | Callable[[Iterable[str]], Tokenizer]
) -> Path:
    """The cache entry with a corpus's tokenizer, or the function that learns it, and token arrays."""
    longest = settings["longest"]

    def build(folder: Path) -> None:
        used = made if isinstance(made, Tokenizer) else made(corpus.texts("train"))
        encode = _encode_pairs if corpus.paired else _encode_documents
        counts = {split: encode(corpus.splits[split], used, folder, split, longest) for split in SPLITS}
        facts = {**counts, "vocab_size": used.vocab_size, **_compressed(corpus)}
        (folder / "prepared.json").write_text(json.dumps({"tokenizer": used.dump(), "facts": facts}), encoding="utf-8")

    return cache.cached("tokens", {"text": sha256, **settings, "format": 1}, build)


def _encode_documents(
    documents: Sequence[str], made: Tokenizer, folder: Path, split: str, longest: int | None
) -> dict[str, int]:
    encoded = Sequences.encode(documents, made, before=made.bos)
    encoded.save(folder, split)
    return {"documents": len(documents), "tokens": len(encoded.flat), "bytes": _bytes(documents)}


def _encode_pairs(
    pairs: Sequence[tuple[str, str]], made: Tokenizer, folder: Path, split: str, longest: int | None
) -> dict[str, int]:
    sources = Sequences.encode([source for source, _ in pairs], made, after=made.eos)
    targets = Sequences.encode([target for _, target in pairs], made, before=made.bos)
    if longest is not None:
        fits = (sources.lengths <= longest) & (targets.lengths <= longest)
        sources, targets = sources.only(fits), targets.only(fits)
    sources.save(folder, f"{split}.source")
    targets.save(folder, f"{split}.target")
    return {
        "pairs": len(sources),
        "too_long": len(pairs) - len(sources),
        "tokens": len(sources.flat) + len(targets.flat),
        "bytes": int(made.byte_lengths[targets.flat].sum()),
    }


def _bytes(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def _compressed(corpus: Corpus) -> dict[str, float]:
    """Compression of the validation text (of pairs: the targets) by xz, in bits per byte, to compare the model with."""
    texts = [text[1] if corpus.paired else text for text in corpus.splits["validation"]]
    text = "\n".join(texts).encode()[:_XZ_AT_MOST]
    return {"xz_bits_per_byte": 8 * len(lzma.compress(text)) / len(text)} if text else {}
