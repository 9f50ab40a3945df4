"""Tokenizers as they are stored in checkpoints and in the cache."""

from typing import Any

from blockformer.data.chat_template import ChatTemplate
from blockformer.data.tokenizer import FORMAT, Tokenizer
from blockformer.data.tokenizers.bpe import BPETokenizer
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.data.tokenizers.file import FileTokenizer
from blockformer.data.tokenizers.unigram import UnigramTokenizer
from blockformer.data.tokenizers.wordpiece import WordPieceTokenizer
from blockformer.errors import DataError

KINDS: dict[str, type[Tokenizer]] = {
    made.kind: made for made in (ByteTokenizer, BPETokenizer, UnigramTokenizer, WordPieceTokenizer, FileTokenizer)
}
_WHY = "not a tokenizer that this version of blockformer wrote"


def from_dump(dumped: Any) -> Tokenizer:
    """Make a tokenizer from the values of `Tokenizer.dump`.

    One that was learned here is built anew from its vocabulary and merges, so that nothing else in the values, such as
    a regular expression, has an effect. One from a file is checked as the file was.

    Raises:
        DataError: They are not from `dump`; the message names the key.
    """
    if not isinstance(dumped, dict) or dumped.get("format") != FORMAT:
        raise DataError(_WHY)
    kind, library = dumped.get("kind"), dumped.get("library")
    if (
        not isinstance(kind, str)
        or kind not in KINDS
        or not isinstance(library, str if kind == FileTokenizer.kind else dict)
    ):
        raise DataError(f"{_WHY}: kind or library is wrong")
    made = KINDS[kind].rebuild(dumped)
    if different := _difference(library, made.dump()["library"], "library"):
        raise DataError(f"{_WHY}: {different} is wrong")
    if "chat" in dumped:
        made.chat = ChatTemplate.rebuild(dumped["chat"])
    return made


def _difference(stored: Any, made: Any, path: str) -> str | None:
    """The first key at which stored values differ from those that are written now; new and old keys may be absent."""
    if isinstance(stored, dict) and isinstance(made, dict):
        parts = (_difference(stored[key], value, f"{path}.{key}") for key, value in made.items() if key in stored)
        return next((part for part in parts if part), None)
    if isinstance(stored, list) and isinstance(made, list) and len(stored) == len(made):
        parts = (_difference(*pair, f"{path}.{place}") for place, pair in enumerate(zip(stored, made, strict=True)))
        return next((part for part in parts if part), None)
    return None if type(stored) is type(made) and stored == made else path
