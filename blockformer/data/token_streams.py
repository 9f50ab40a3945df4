"""Texts of tokens that arrive one at a time."""

import codecs
from collections.abc import Callable, Iterable, Sequence

_CONTEXT = 8  # tokens before a new one that decide how it is written, such as whether a space is before it


class Stream:
    """Decodes tokens one at a time, and holds back what is no whole character yet.

    A token is decoded after the ones before it, as some decoders write a space only between two.

    Args:
        decode: The tokenizer's.
        before: The tokens of the prompt.
    """

    def __init__(self, decode: Callable[[Iterable[int]], str], before: Sequence[int] = ()) -> None:
        self._decode = decode
        self._known, self._new = list(before[-_CONTEXT:]), list[int]()

    def feed(self, token: int) -> str:
        """The characters that this token completes, perhaps none."""
        self._new.append(int(token))
        text = self._text()
        if text.endswith("\ufffd"):
            return ""
        if text:
            self._known, self._new = self._new, []
        return text

    def end(self) -> str:
        """What was held back, with U+FFFD for a character that was never completed."""
        return self._text() if self._new else ""

    def _text(self) -> str:
        return self._decode([*self._known, *self._new])[len(self._decode(self._known)) :]


class ByteStream:
    """Decodes tokens whose bytes are known, and holds back the bytes of an incomplete character.

    Args:
        pieces: The bytes of each token.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """The characters that this token completes, perhaps none."""
        return self._decoder.decode(joined(self._pieces, [token]))

    def end(self) -> str:
        """U+FFFD for a character that was never completed, else nothing."""
        return self._decoder.decode(b"", final=True)


def joined(pieces: Sequence[bytes], ids: Iterable[int]) -> bytes:
    """The bytes of tokens; a model may have more ids than its tokenizer, and those stand for nothing."""
    return b"".join(pieces[int(one)] for one in ids if int(one) < len(pieces))
