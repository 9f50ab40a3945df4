"""A unigram language model over pieces of words."""

import json
import math
from collections.abc import Mapping, Sequence
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

Pieces = list[tuple[str, float]]
_STEP = 1e-4  # between the scores of bytes that the library adds
_DIGITS = 6  # of scores; the sums that they come from are added up in any order


class UnigramTokenizer(ByteLevelTokenizer):
    """The most probable segmentation into pieces, learned from texts; see :class:`Unigram`.

    Args:
        pieces: the special tokens and the pieces with their logarithmic probabilities, in the order of their ids.
    """

    kind = "unigram"

    def __init__(self, pieces: Pieces) -> None:
        library = byte_level(models.Unigram(pieces, None, False))
        library.add_special_tokens(list(SPECIAL))
        super().__init__(library)

    @classmethod
    def rebuild(cls, dumped: Mapping[str, Any]) -> "UnigramTokenizer":
        return cls(_pieces(dumped["library"].get("model")))


@register("unigram")
class Unigram(LearnedTokenizer):
    """The segmentation of each word into pieces that is the most probable one, each piece being drawn on its own.

    Kudo 2018, arXiv:1804.10959, the default of SentencePiece; here of bytes, with words split as by `bpe`. Any text is
    encoded and given back exactly.

    Args:
        vocab_size: Number of token ids, special ones and the 256 bytes included; a short text may yield fewer. Null:
            the recipe's, or 1024 without a recipe.
        learn_bytes: Learn from about so many bytes of the training text, in whole documents chosen at random, and from
            all of a shorter text.
    """

    formula = '"tokens of" x = argmax_(s_1 ... s_n = x) prod_i p(s_i)'

    least, why = LEAST, WHY

    def __init__(self, *, vocab_size: Positive | None = None, learn_bytes: Positive = LEARN_BYTES) -> None:
        super().__init__(vocab_size, learn_bytes)

    def learn(self, texts: Texts) -> UnigramTokenizer:
        library = byte_level(models.Unigram())
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.UnigramTrainer(
            vocab_size=self.vocab_size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
        )
        library.train_from_iterator((piece for text in texts() for piece in cut(text, CUTS)), trainer)
        return UnigramTokenizer(_in_order(json.loads(library.to_str())["model"]["vocab"]))


def _in_order(learned: Sequence[tuple[str, float | None]]) -> Pieces:
    """What the library has learned, in an order and with scores that are the same in every process.

    The library numbers pieces with equal scores by chance. The scores of bytes that hardly any text has differ by
    chance too, and lie just above the least; where there is no text at all, there is no number.
    """
    scores = {name: score for name, score in learned[len(SPECIAL) :] if score is not None}
    floor = min(scores.values(), default=0.0)
    rare = floor + 256 * _STEP
    found = {
        name: round(floor if len(name) == 1 and scores.get(name, floor) <= rare else scores[name], _DIGITS)
        for name, _ in learned[len(SPECIAL) :]
    }
    return [*((name, 0.0) for name in SPECIAL), *sorted(found.items(), key=lambda one: (-one[1], one[0]))]


def _pieces(model: Any) -> Pieces:
    """The pieces of a stored model.

    Raises:
        DataError: one is no piece with a score, a byte or special token is missing, or a name occurs twice.
    """
    rows = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(rows, list):
        raise DataError("the tokenizer has no vocabulary")
    pieces: Pieces = []
    for row in rows:
        name, score = row if isinstance(row, list | tuple) and len(row) == 2 else (None, None)
        if not isinstance(name, str) or type(score) is not float or not math.isfinite(score):
            raise DataError("a row of the tokenizer's vocabulary is no piece with a score")
        pieces.append((name, score))
    names = [name for name, _ in pieces]
    check_ids(names)
    alphabet = set(byte_characters().values())
    if not alphabet <= set(names) or any(not name or set(name) - alphabet for name in names[len(SPECIAL) :]):
        raise DataError("the tokenizer's vocabulary lacks a byte, or has a piece that is not of bytes")
    return pieces
