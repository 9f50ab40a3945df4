"""A tokenizer of one's own: a tokenizer.json, a folder with one, or a SentencePiece model."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from blockformer.assembly.checkpoint import LoadError
from blockformer.assembly.imported_folder import WEIGHTS, imported_metadata
from blockformer.data.token_streams import ByteStream, Stream, joined
from blockformer.data.tokenizer import FORMAT, SpecialTokens, Tokenizer, unusable
from blockformer.data.tokenizers.base import GivenTokenizer
from blockformer.data.tokenizers.byte_level import CUTS
from blockformer.data.tokenizers.folder_template import template_in, token_names
from blockformer.data.tokenizers.sentencepiece_model import as_tokenizer_json, is_sentencepiece
from blockformer.data.tokenizers.special_tokens import Hints, find_special, hints_of
from blockformer.data.tokenizers.tokenizer_json import (
    MAX_BYTES,
    MAX_TOKENS,
    byte_pieces,
    cut_by_words,
    library_of,
    read_content,
    unigram_encoder,
)
from blockformer.errors import DataError
from blockformer.files import parse_json
from registry import register
from registry.files import file_in, is_file, read_bytes

TOKENS = "tokenizer.json"
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "config.json")
_PROBE = "a"


class FileTokenizer(Tokenizer):
    """A tokenizer from elsewhere, with the special tokens around a text that it was published with.

    Args:
        text: the content of a tokenizer.json.
        hints: what other files say about its special tokens; None: nothing.
        said: names of special tokens that the user gives; None: none.

    Raises:
        DataError: it cannot be used, or its special tokens are not known.
    """

    kind = "file"

    def __init__(self, text: str, hints: Hints | None = None, said: Mapping[str, str | None] | None = None) -> None:
        content = read_content(text)
        library = library_of(content)
        super().__init__(library, find_special(library, said or {}, hints or {}), byte_pieces(content, library))
        if (encoder := unigram_encoder(content)) is not None:
            encoder.encode_special_tokens, self._encoder = True, encoder
        self.text = text
        self._cuts = CUTS if cut_by_words(content) else None
        self._of_bytes = self.pieces is not None and content["decoder"].get("type") == "ByteLevel"
        self._roles = np.array([one for one in {*asdict(self.special).values()} if one is not None])
        self.is_ordinary[self._roles] = False
        self._template = self._special_around()
        self._between = self._special_between()

    @classmethod
    def rebuild(cls, dumped: Mapping[str, Any]) -> "FileTokenizer":
        text, special = dumped["library"], dumped.get("special")
        wanted = asdict(SpecialTokens(0, 0, 0, None))
        if not isinstance(text, str) or not isinstance(special, dict) or special.keys() != wanted.keys():
            raise DataError("the tokenizer has no text or no special tokens")
        ids = [one for role, one in special.items() if role != "mask" or one is not None]
        if any(type(one) is not int or not 0 <= one < MAX_TOKENS for one in ids):
            raise DataError("a special token of the tokenizer has no id")
        names = {"decoder_start": special["bos"], **{role: one for role, one in special.items() if one is not None}}
        made = cls(text, hints=names)
        if asdict(made.special) != special:
            raise DataError("a special token of the tokenizer is no token of it")
        return made

    def dump(self) -> dict[str, Any]:
        known = {"format": FORMAT, "kind": self.kind, "library": self.text, "special": asdict(self.special)}
        return {**known, **self._chat_dump()}

    def around(self, kind: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        before, after = self._template
        if kind == "encoder_decoder":
            return before, after or (self.eos,)
        return before, (() if kind == "decoder_only" else after)

    @property
    def between(self) -> tuple[int, ...]:
        return self._between or self._template[1] or (self.eos,)

    def decode(self, ids: Iterable[int]) -> str:
        if not self._of_bytes or self.pieces is None:
            return super().decode(ids)
        return joined(self.pieces, ids).decode("utf-8", errors="replace")

    def stream(self, before: Sequence[int] = ()) -> Stream | ByteStream:
        return ByteStream(self.pieces) if self._of_bytes and self.pieces is not None else super().stream(before)

    def _special_around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The special tokens that it puts before and after a text.

        Raises:
            DataError: it cannot encode a letter.
        """
        plain = self.encode(_PROBE)
        try:
            whole = self._library.encode(_PROBE).ids
        except BaseException as error:
            raise unusable(error, "has a template that cannot be used") from None
        places = range(len(whole) - len(plain) + 1)
        start = next((place for place in places if whole[place : place + len(plain)] == plain), 0)
        before, after = whole[:start], whole[start + len(plain) :] if plain else []
        if any(one >= self.vocab_size for one in whole):
            raise DataError(f"the tokenizer puts a token {max(whole)} around texts, and has {self.vocab_size} ids")
        return tuple(before), tuple(after)

    def _special_between(self) -> tuple[int, ...]:
        """The special tokens that it puts between two texts; none if it has no template for two."""
        try:
            whole = self._library.encode(_PROBE, _PROBE).ids
        except BaseException as error:
            raise unusable(error, "has a template for two texts that cannot be used") from None
        (before, after), plain = self._template, self.encode(_PROBE)
        end = len(whole) - len(after) - len(plain)
        between = whole[len(before) + len(plain) : end]
        expected = [*before, *plain, *between, *plain, *after]
        return tuple(between) if whole == expected and all(one < self.vocab_size for one in between) else ()

    def _encode(self, texts: list[str]) -> Iterable[NDArray[Any]]:
        for text, ids in zip(texts, super()._encode(texts), strict=True):
            if (spelled := ids[np.isin(ids, self._roles)]).size:
                raise DataError(
                    f"a text has {self.names[spelled[0]]!r}, which the tokenizer encodes as the special token of this "
                    f"name: take it out of the text, or name other tokens by --data.bos_token, --data.eos_token, "
                    f"--data.pad_token and --data.mask_token (the text begins {text[:30]!r})"
                )
            yield ids


@register("file")
class File(GivenTokenizer):
    """Your own tokenizer, such as that of a published model.

    Its special tokens are those that its files name. Where there is none of a kind, another takes its place: a text
    begins with the token that ends texts, or with `[CLS]`; the same token may also fill rows up. A checkpoint stores
    the whole tokenizer.

    Args:
        tokenizer_path: A `tokenizer.json`; or a folder with one, of Hugging Face or of `blockformer import`; or a
            SentencePiece model (`*.model`), which the extra `sentencepiece` reads.
        bos_token: The name of the token that begins a document; null: the one that the files name.
        eos_token: The name of the token that ends a document; null: the one that the files name.
        pad_token: The name of the token that fills rows up; null: the one that the files name.
        mask_token: The name of the token that masked language models fill in; null: the one that the files name.
    """

    reads = ("tokenizer_path",)

    def __init__(
        self,
        *,
        tokenizer_path: str | None = None,
        bos_token: str | None = None,
        eos_token: str | None = None,
        pad_token: str | None = None,
        mask_token: str | None = None,
    ) -> None:
        self.path = tokenizer_path
        self.said = {"bos": bos_token, "eos": eos_token, "pad": pad_token, "mask": mask_token}

    def read(self) -> FileTokenizer:
        if not self.path:
            raise DataError("tokenizer 'file' needs a file: name it in data.tokenizer_path")
        path = Path(self.path)
        folder, name = (path, TOKENS) if path.is_dir() else (path.parent, path.name)
        file = folder / name
        if path.is_dir() and not is_file(file):
            raise DataError(f"{path}: has no {TOKENS}")
        try:
            read = file_in(folder, name, MAX_BYTES) if path.is_dir() else file
            data = read_bytes(read, MAX_BYTES)
            if is_sentencepiece(name):
                return FileTokenizer(*as_tokenizer_json(data), said=self.said)
            if name != TOKENS:
                return FileTokenizer(data.decode("utf-8"), said=self.said)
            settings = _settings_in(folder)
            made = FileTokenizer(data.decode("utf-8"), _hints_in(folder, settings), said=self.said)
            said = {f"{role}_token": one for role, one in self.said.items() if one is not None}
            made.named = token_names(*(settings[one] for one in SETTINGS[:2])) | said
            if (template := template_in(folder, settings[SETTINGS[0]])) is not None:
                made.use_template(*template)
            return made
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise DataError(f"{file}: is not a text in UTF-8") from None
        except DataError as error:
            raise DataError(f"{file}: {error}") from None


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has a tokenizer that :class:`File` reads."""
    return is_file(folder / TOKENS)


def _settings_in(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The content of the files beside a tokenizer that may say something about it; empty where there is none.

    Raises:
        DataError, OSError: one of them cannot be read.
    """
    settings: dict[str, Mapping[str, Any]] = {name: {} for name in SETTINGS}
    for name in SETTINGS:
        if is_file(folder / name):
            try:
                values = parse_json(read_bytes(file_in(folder, name, MAX_BYTES), MAX_BYTES).decode("utf-8"))
            except ValueError as error:
                raise DataError(f"{name} beside it is not valid JSON: {error}") from None
            settings[name] = cast("dict[str, Any]", values) if isinstance(values, dict) else {}
    return settings


def _hints_in(folder: Path, found: Mapping[str, Mapping[str, Any]]) -> dict[str, str | int]:
    """What the files beside a tokenizer say about its special tokens; `found` is the content of some by their names."""
    settings = [found[name] for name in SETTINGS]
    if is_file(folder / WEIGHTS):
        try:
            values = json.loads(imported_metadata(folder).get("tokens", "{}"))
        except (LoadError, ValueError):
            values = None
        settings.append(values if isinstance(values, dict) else {})
    return hints_of(*settings)
