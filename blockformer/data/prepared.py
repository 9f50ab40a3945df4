"""From a corpus to token arrays on disk, a tokenizer and facts: what loaders are made from."""

import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blockformer.data import cache, tokenizer
from blockformer.data.corpora.corpus import SPLITS, Corpus
from blockformer.data.sequences import Sequences
from blockformer.data.tokenizer import Tokenizer

_XZ_AT_MOST = 2**24  # bytes; xz takes about a second for 2 MB


@dataclass(frozen=True)
class Prepared:
    """Tokenised text in splits.

    Args:
        folder: Where the arrays lie.
        tokenizer: What they were encoded with; a BPE has learned from the training split alone.
        paired: Whether there are pairs.
        facts: What to log about the text and its tokens.
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


def prepare(corpus: Corpus, kind: str, vocab_size: int, longest: int | None = None) -> Prepared:
    """Train a tokenizer and encode a corpus, or take both from the cache.

    Args:
        corpus: The text.
        kind: "bytes" or "bpe".
        vocab_size: Ids that a BPE shall have.
        longest: Leave out pairs with more tokens on a side.
    """
    sha256 = corpus.sha256()
    key = {"text": sha256, "tokenizer": kind, "vocab_size": vocab_size, "longest": longest, "format": 1}

    def build(folder: Path) -> None:
        made = tokenizer.train(kind, corpus.texts("train"), vocab_size)
        encode = _encode_pairs if corpus.paired else _encode_documents
        counts = {split: encode(corpus.splits[split], made, folder, split, longest) for split in SPLITS}
        facts = {**counts, "vocab_size": made.vocab_size, **_compressed(corpus)}
        (folder / "prepared.json").write_text(json.dumps({"tokenizer": made.dump(), "facts": facts}), encoding="utf-8")

    folder = cache.cached("tokens", key, build)
    content = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
    facts = {**corpus.facts, "sha256": sha256, "tokenizer": kind, **content["facts"]}
    return Prepared(folder, tokenizer.load(content["tokenizer"]), corpus.paired, facts)


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
    """What xz makes of the validation text (of pairs: the targets), in bits per byte: a yardstick for the model."""
    texts = [text[1] if corpus.paired else text for text in corpus.splits["validation"]]
    text = "\n".join(texts).encode()[:_XZ_AT_MOST]
    return {"xz_bits_per_byte": 8 * len(lzma.compress(text)) / len(text)} if text else {}
