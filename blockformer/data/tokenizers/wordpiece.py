"""WordPiece: whole words and pieces of words, as BERT has them."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from blockformer.data.tokenizer import SpecialTokens, Tokenizer, cut
from blockformer.data.tokenizers.base import LEARN_BYTES, LearnedTokenizer, Texts
from blockformer.data.tokenizers.byte_level import CUTS, SPECIAL, check_ids
from blockformer.errors import DataError
from registry import Positive, register

UNKNOWN = "<unk>"
NAMES = (*SPECIAL, UNKNOWN)
CONTINUES = "##"
MOST_UNKNOWN = 0.1
"""Share of the words of a text; with more, a model would learn to predict that a word is unknown."""
_COUNTED = 2**20
"""Characters at the beginning of the text in which unknown words are counted."""


class WordPieceTokenizer(Tokenizer):
    """Words and pieces of words, learned from texts; see :class:`WordPiece`.

    Args:
        vocabulary: the ids by name.
        lowercase: remove case and accents before.
    """

    kind = "wordpiece"
    _cuts = CUTS

    def __init__(self, vocabulary: Mapping[str, int], *, lowercase: bool) -> None:
        library = _library(models.WordPiece(dict(vocabulary), unk_token=UNKNOWN), lowercase)
        library.add_special_tokens(list(NAMES))
        super().__init__(library, SpecialTokens(*(vocabulary[name] for name in SPECIAL)))

    @classmethod
    def rebuild(cls, dumped: Mapping[str, Any]) -> "WordPieceTokenizer":
        model, normalizer = (dumped["library"].get(key) for key in ("model", "normalizer"))
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        lowercase = normalizer.get("lowercase") if isinstance(normalizer, dict) else None
        if not isinstance(vocabulary, dict) or type(lowercase) is not bool:
            raise DataError("the tokenizer has no vocabulary, or does not say whether it keeps case")
        if any(type(number) is not int for number in vocabulary.values()) or sorted(vocabulary.values()) != list(
            range(len(vocabulary))
        ):
            raise DataError("the ids of the tokenizer's vocabulary are not 0, 1, 2, ...")
        check_ids(sorted(vocabulary, key=lambda name: vocabulary[name]), NAMES)
        return cls(vocabulary, lowercase=lowercase)


@register("wordpiece")
class WordPiece(LearnedTokenizer):
    """Whole words where they are known, else their longest known pieces from the left; `##` begins one inside a word.

    Wu et al. 2016, arXiv:1609.08144, with the words of BERT (Devlin et al. 2019, arXiv:1810.04805): white space and
    punctuation divide them, and white space is lost. The rarest characters are unknown, and so are words that have one:
    those that can stand inside a word are kept up to a quarter of the vocabulary, and Chinese characters, which are
    words by themselves, up to seven eighths. A vocabulary that leaves more than a tenth of the words unknown is
    refused. As texts are not given back exactly, there are no bits per byte.

    Args:
        vocab_size: Number of token ids, special ones included; a short text may yield fewer. Null: the recipe's, or
            1024 without a recipe.
        lowercase: Remove case and accents, as uncased BERT does.
        learn_bytes: Learn from about so many bytes of the training text, in whole documents chosen at random, and from
            all of a shorter text.
    """

    least, why = 64, "special tokens, and characters at the beginning and inside of words,"

    def __init__(
        self, *, vocab_size: Positive | None = None, lowercase: bool = False, learn_bytes: Positive = LEARN_BYTES
    ) -> None:
        super().__init__(vocab_size, learn_bytes)
        self.lowercase = lowercase

    def learn(self, texts: Texts) -> WordPieceTokenizer:
        library = _library(models.WordPiece(unk_token=UNKNOWN), self.lowercase)
        # The library would number the characters by chance: they are named first, in order, as if they were special.
        usual = _characters(library, texts)
        joining = {one for one in usual if len(_words(library, f"a{one}")) == 1}
        characters = sorted(_kept(usual, joining, self.vocab_size))
        inside = [f"{CONTINUES}{one}" for one in characters if one in joining]
        trainer = trainers.WordPieceTrainer(
            vocab_size=self.vocab_size,
            special_tokens=[*NAMES, *characters, *inside],
            initial_alphabet=characters,
            limit_alphabet=len(characters),
            show_progress=False,
        )
        library.train_from_iterator(_pieces(texts), trainer)
        made = WordPieceTokenizer(library.get_vocab(), lowercase=self.lowercase)
        if len(characters) < len(usual) and (share := _unknown_words(made, texts)) > MOST_UNKNOWN:
            raise DataError(
                f"data.vocab_size {self.vocab_size} is too small for wordpiece: {share:.0%} of the words of the "
                f"training text would be unknown, as it keeps {len(characters)} characters; "
                f"{_size_for(len(usual), len(joining))} keeps all {len(usual)}: raise it, and the recipe's vocab_size, "
                f"or choose another tokenizer"
            )
        return made


def _library(model: models.Model, lowercase: bool) -> Library:
    library = Library(model)
    library.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=lowercase)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece(prefix=CONTINUES, cleanup=False)
    return library


def _pieces(texts: Texts) -> Iterator[str]:
    return (piece for text in texts() for piece in cut(text, CUTS))


def _words(library: Library, text: str) -> list[str]:
    return [word for word, _ in library.pre_tokenizer.pre_tokenize_str(library.normalizer.normalize_str(text))]


def _characters(library: Library, texts: Texts) -> list[str]:
    """The characters of the normalised texts, the most frequent first."""
    counts: Counter[str] = Counter()
    for piece in _pieces(texts):
        counts.update(library.normalizer.normalize_str(piece))
    return sorted((one for one in counts if _words(library, one)), key=lambda one: (-counts[one], one))


def _kept(usual: list[str], joining: set[str], size: int) -> list[str]:
    """The most frequent characters that a vocabulary has room for.

    Those that can stand inside a word take two ids each and are a quarter of the vocabulary at most, which leaves half
    of it for longer pieces. Others, such as those of Chinese, are words by themselves and need none.
    """
    room, inner, kept = size * 7 // 8 - len(NAMES), size // 4, list[str]()
    for one in usual:
        ids = 2 if one in joining else 1
        if ids <= room and (inner or one not in joining):
            kept.append(one)
            room, inner = room - ids, inner - (one in joining)
    return kept


def _size_for(characters: int, joining: int) -> int:
    """The size of the smallest vocabulary that keeps all characters, of which so many can stand inside a word."""
    return max(4 * joining, -(-8 * (len(NAMES) + characters + joining) // 7))


def _unknown_words(tokenizer: Tokenizer, texts: Texts) -> float:
    """The share of words that are unknown, at the beginning of the texts."""
    counts: Counter[str] = Counter()
    seen = 0
    for piece in _pieces(texts):
        counts.update(tokenizer.names[token] for token in tokenizer.encode(piece))
        seen += len(piece)
        if seen > _COUNTED:
            break
    words = sum(count for name, count in counts.items() if not name.startswith(CONTINUES))
    return counts[UNKNOWN] / max(words, 1)
