"""Tokenizers of UTF-8 bytes: each token stands for some bytes, its *piece*, so that any text is given back exactly.

Special tokens have an empty piece, and encoding a text never yields them. Decoding joins pieces.
"""

import re
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from blockformer.data.token_streams import ByteStream, joined
from blockformer.data.tokenizer import SpecialTokens, Tokenizer
from blockformer.errors import DataError

SPECIAL = ("<pad>", "<bos>", "<eos>", "<mask>")
LEAST = len(SPECIAL) + 256
"""The smallest vocabulary that can encode any text: special tokens and bytes."""
WHY = "special tokens and bytes"

# The library's byte-level pre-tokenizer never joins white space to what is before it, nor a letter to punctuation after
# it (apostrophes begin "'s" and the like). Only letters that are letters in every version of Unicode are counted on.
_LETTER = r"[A-Za-z\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3]"
CUTS = re.compile(rf"(?<=\S)(?=[ \n\r\t])|(?<={_LETTER})(?=[,.:;!?\u3001\u3002\uff0c\uff01\uff1f])")


class ByteLevelTokenizer(Tokenizer):
    """Decoding by pieces.

    Args:
        library: a byte-level tokenizer of the `tokenizers` package with the special tokens `SPECIAL`.
    """

    _cuts = CUTS
    pieces: tuple[bytes, ...]

    def __init__(self, library: Library) -> None:
        vocabulary = library.get_vocab()
        value_of = {character: value for value, character in byte_characters().items()}
        names = sorted(vocabulary, key=lambda name: vocabulary[name])
        pieces = [b"" if name in SPECIAL else bytes(value_of[one] for one in name) for name in names]
        super().__init__(library, SpecialTokens(*(vocabulary[name] for name in SPECIAL)), pieces)

    def decode(self, ids: Iterable[int]) -> str:
        return joined(self.pieces, ids).decode("utf-8", errors="replace")

    def stream(self, before: Sequence[int] = ()) -> ByteStream:
        return ByteStream(self.pieces)

    def name(self, token: int) -> str:
        return joined(self.pieces, [token]).decode("utf-8", errors="backslashreplace") or super().name(token)


def byte_level(model: models.Model) -> Library:
    """A model whose texts are written in `byte_characters`, split as GPT-2 does."""
    library = Library(model)
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    return library


def byte_characters() -> dict[int, str]:
    """The printable character with which byte-level BPE writes each byte: itself, or the next one past 255."""
    own = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [value for value in range(256) if value not in own]
    return {value: chr(value) for value in own} | {value: chr(256 + n) for n, value in enumerate(others)}


def check_ids(names: Sequence[str], needed: Sequence[str] = SPECIAL) -> None:
    """Check the names of a stored vocabulary, in the order of their ids.

    Raises:
        DataError: a name occurs twice, or the first are not the special tokens.
    """
    if len(set(names)) != len(names):
        raise DataError("the ids of the tokenizer's vocabulary are not 0, 1, 2, ...")
    if tuple(names[: len(needed)]) != tuple(needed):
        raise DataError(f"the ids of the tokenizer's special tokens are not those of {', '.join(needed)}")
