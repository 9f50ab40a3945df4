"""Byte-pair encoding of bytes."""

from collections.abc import Mapping
from typing import Any

from tokenizers import models, pre_tokenizers, trainers

from blockformer.data.tokenizer import cut
from blockformer.data.tokenizers.base import LEARN_BYTES, LearnedTokenizer, Texts
from blockformer.data.tokenizers.byte_level import (
    CUTS,
    LEAST,
    SPECIAL,
    WHY,
    ByteLevelTokenizer,
    byte_characters,
    byte_level,
    check_ids,
)
from blockformer.errors import DataError
from registry import Positive, register


class BPETokenizer(ByteLevelTokenizer):
    """Merges of bytes, learned from texts; see :class:`BPE`."""

    kind = "bpe"

    @classmethod
    def rebuild(cls, dumped: Mapping[str, Any]) -> "BPETokenizer":
        vocabulary, merges = _merges(dumped["library"].get("model"))
        library = byte_level(models.BPE(vocabulary, merges))
        library.add_special_tokens(list(SPECIAL))
        return cls(library)


@register("bpe")
class BPE(LearnedTokenizer):
    """Byte-pair encoding: merge the most frequent pair of neighbours, again and again.

    Sennrich et al. 2016, arXiv:1508.07909; on bytes, split into words first, as in Radford et al. 2019 (GPT-2). Any
    text is encoded and given back exactly.

    Args:
        vocab_size: Number of token ids, special ones and the 256 bytes included; a short text may yield fewer. Null:
            the recipe's, or 1024 without a recipe.
        learn_bytes: Learn from about so many bytes of the training text, in whole documents chosen at random, and from
            all of a shorter text.
    """

    formula = '"next merge:" argmax_(a,b) "count of" a "before" b'

    least, why = LEAST, WHY

    def __init__(self, *, vocab_size: Positive | None = None, learn_bytes: Positive = LEARN_BYTES) -> None:
        super().__init__(vocab_size, learn_bytes)

    def learn(self, texts: Texts) -> BPETokenizer:
        library = byte_level(models.BPE())
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
        )
        library.train_from_iterator((piece for text in texts() for piece in cut(text, CUTS)), trainer)
        return BPETokenizer(library)


def _merges(model: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and the merges of a stored BPE.

    Raises:
        DataError: ids are not 0, 1, 2, ..., a byte or special token is missing, or a merge is not of known tokens.
    """
    vocabulary, merges = (model.get("vocab"), model.get("merges")) if isinstance(model, dict) else (None, None)
    if not isinstance(vocabulary, dict) or not isinstance(merges, list):
        raise DataError("the tokenizer has no vocabulary or no merges")
    known = {*SPECIAL, *byte_characters().values()}
    if any(type(number) is not int for number in vocabulary.values()) or not known <= vocabulary.keys():
        raise DataError("the tokenizer's vocabulary lacks a byte or a special token, or has an id that is no number")
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise DataError("the ids of the tokenizer's vocabulary are not 0, 1, 2, ...")
    check_ids(sorted(vocabulary, key=lambda name: vocabulary[name]))
    pairs = [tuple(pair) for pair in merges if isinstance(pair, list | tuple)]
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(part, str) for part in pair) or "".join(pair) not in vocabulary:
            raise DataError("a merge of the tokenizer is not of two of its tokens")
        known.add("".join(pair))
    if len(pairs) != len(merges) or known != vocabulary.keys() or any(not known.issuperset(pair) for pair in pairs):
        raise DataError("the tokenizer's merges do not make its tokens")
    return vocabulary, pairs
