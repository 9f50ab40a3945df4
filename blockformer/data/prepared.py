"""Tokenization of a corpus: token arrays on disk, a tokenizer and facts."""

import hashlib
import json
import lzma
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from blockformer.data import cache, tokenizer
from blockformer.data.corpora.corpus import SPLITS, Corpus, Source
from blockformer.data.sequences import Sequences
from blockformer.data.tokenizer import Tokenizer

_XZ_AT_MOST = 2**24  # bytes of validation text; xz takes about a second for 2 MB


@dataclass(frozen=True)
class Prepared:
    """Tokenized text in splits.

    Args:
        folder: Folder of the arrays.
        tokenizer: Their tokenizer; a BPE is learned from the training split alone, unless it was given.
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
        facts = {**corpus.facts, "sha256": sha256}
        about = {"tokens": tokens.name, "paired": corpus.paired, "facts": facts, "notes": dict(corpus.notes)}
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
    stored = tokenizer.load(content["tokenizer"])
    return Prepared(folder, stored, about["paired"], facts, content["longest"], about["notes"])


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
    corpus: Corpus, sha256: str, settings: Mapping[str, Any], made: Tokenizer | Callable[[Iterable[str]], Tokenizer]
) -> Path:
    """The cache entry with a corpus's tokenizer, or the function that learns it, and token arrays."""
    longest = settings["longest"]

    def build(folder: Path) -> None:
        used = made if isinstance(made, Tokenizer) else made(corpus.texts("train"))
        encode = _encode_pairs if corpus.paired else _encode_documents
        encoded = {split: encode(corpus.splits[split], used, folder, split, longest) for split in SPLITS}
        facts = {split: one.counts for split, one in encoded.items()}
        facts |= {"vocab_size": used.vocab_size, **_compressed(encoded["validation"].scored)}
        content = {"tokenizer": used.dump(), "facts": facts, "longest": {k: one.longest for k, one in encoded.items()}}
        (folder / "prepared.json").write_text(json.dumps(content), encoding="utf-8")

    return cache.cached("tokens", {"text": sha256, **settings, "format": 2}, build)


@dataclass(frozen=True)
class _Encoded:
    """A split whose tokens have been written.

    Args:
        counts: Facts to log.
        scored: The texts that are predicted.
        longest: Of pairs, the tokens of the longest side.
    """

    counts: dict[str, int]
    scored: Sequence[str]
    longest: int = 0


def _encode_documents(
    documents: Sequence[str], made: Tokenizer, folder: Path, split: str, longest: int | None
) -> _Encoded:
    encoded = Sequences.encode(documents, made, before=made.bos)
    encoded.save(folder, split)
    counts = {"documents": len(documents), "tokens": len(encoded.flat), "bytes": _bytes(documents)}
    return _Encoded(counts, documents)


def _encode_pairs(
    pairs: Sequence[tuple[str, str]], made: Tokenizer, folder: Path, split: str, longest: int | None
) -> _Encoded:
    sources = Sequences.encode([source for source, _ in pairs], made, after=made.eos)
    targets = Sequences.encode([target for _, target in pairs], made, before=made.bos)
    lengths = np.maximum(sources.lengths, targets.lengths)
    fits = lengths <= (np.inf if longest is None else longest)
    sources, targets = sources.only(fits), targets.only(fits)
    sources.save(folder, f"{split}.source")
    targets.save(folder, f"{split}.target")
    counts = {
        "pairs": len(sources),
        "too_long": len(pairs) - len(sources),
        "tokens": len(sources.flat) + len(targets.flat),
        "bytes": int(made.byte_lengths[targets.flat].sum()),
    }
    scored = [target for (_, target), kept in zip(pairs, fits, strict=True) if kept]
    return _Encoded(counts, scored, int(lengths.max(initial=0)))


def _bytes(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def _compressed(texts: Sequence[str]) -> dict[str, float]:
    """Compression of the validation texts by xz, in bits per byte, to compare the model with.

    Ends of texts are compressed and not counted as bytes, as in the bits per byte of a model.
    """
    compressor, size, compressed = lzma.LZMACompressor(), 0, 0
    for text in texts:
        if size >= _XZ_AT_MOST:
            break
        part = text[: _XZ_AT_MOST - size].encode()
        compressed += len(compressor.compress(part + b"\n"))
        size += len(part)
    return {"xz_bits_per_byte": 8 * (compressed + len(compressor.flush())) / size} if size else {}
