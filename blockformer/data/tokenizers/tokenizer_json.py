"""A tokenizer.json from anywhere: what of it is used, and what is refused before the library sees it."""

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer as Library

from blockformer.data.tokenizer import unusable
from blockformer.data.tokenizers.byte_level import byte_characters
from blockformer.data.tokenizers.pattern_check import pattern_problem
from blockformer.errors import DataError
from blockformer.files import parse_json
from registry.errors import quoted

MAX_BYTES = 200_000_000
MAX_TOKENS = 10_000_000
"""Ids; arrays have a place for every number up to the largest."""
LONGEST_WORD = 10_000  # characters that WordPiece looks at; it takes the square of them in time
GROWTH = 64  # characters that normalisation may make of one
MODELS = ("BPE", "Unigram", "WordLevel", "WordPiece")
_NOWHERE = "\U0010ffff\ufffe"  # Unicode reserves these for uses inside a program
_SPACE = "\u2581"  # how SentencePiece writes a space


def read_content(text: str) -> dict[str, Any]:
    """The values of a tokenizer.json that is harmless.

    Raises:
        DataError: it is no tokenizer, or has ids, patterns or replacements that could fill the memory or never end.
    """
    try:
        content = parse_json(text)
    except ValueError as error:
        raise DataError(f"is not valid JSON: {error}") from None
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise DataError("is no tokenizer: it has no model")
    if "type" in model and model["type"] not in MODELS:
        raise DataError(f"has a model of type {quoted(model['type'])}; known: {', '.join(MODELS)}")
    if problem := next(_problems(content, model), None):
        raise DataError(problem)
    return content


def library_of(content: Mapping[str, Any]) -> Library:
    """The library's tokenizer, without padding and truncation.

    Raises:
        DataError: the library cannot read it.
    """
    try:
        return Library.from_str(json.dumps({**content, "padding": None, "truncation": None}))
    except BaseException as error:
        raise unusable(error, "cannot be read by the library") from None


def unigram_encoder(content: Mapping[str, Any]) -> Library | None:
    """A Unigram that never finds a special token in a text, where it would be the best piece; None: another model.

    The other pieces have the same ids and scores.
    """
    rows, added = content["model"].get("vocab"), content.get("added_tokens") or []
    if not isinstance(rows, list):
        return None
    special = {one["content"] for one in added if one.get("special")}
    hidden = [[f"{_NOWHERE}{name}" if name in special else name, score] for name, score in rows]
    model, kept = {**content["model"], "vocab": hidden}, [one for one in added if one["content"] not in special]
    return library_of({**content, "model": model, "added_tokens": kept, "post_processor": None})


def byte_pieces(content: Mapping[str, Any], library: Library) -> list[bytes] | None:
    """The bytes of each token where those of a text's tokens, one after another, are the text; else None.

    Whether they are is checked on each text, as normalisation (NFC) changes some texts and an unknown token stands for
    any character. Where a change may keep the number of bytes, as that of case does, it is None.
    """
    steps = [*_steps(content.get("normalizer")), *_steps(content.get("pre_tokenizer"))]
    lossless = {"NFC", "Prepend", "ByteLevel", "Metaspace", "Split", "Digits", "Punctuation", "Whitespace"}
    lossless |= {"WhitespaceSplit", "UnicodeScripts"}
    if any(step["type"] not in lossless and not _writes_space(step) for step in steps):
        return None
    written = {step["type"] for step in _steps(content.get("decoder"))}
    if not written & {"ByteLevel", "Metaspace"} and not any(map(_reads_space, _steps(content.get("decoder")))):
        return None
    return written_pieces(content, library)


def written_pieces(content: Mapping[str, Any], library: Library) -> list[bytes]:
    """The bytes of each token in the text that is left after normalisation; none for special and unknown tokens."""
    of_bytes = any(step["type"] == "ByteLevel" for step in _steps(content.get("decoder")))
    value_of = {character: value for value, character in byte_characters().items()}

    def bytes_of(name: str) -> bytes:
        if of_bytes and all(one in value_of for one in name):
            return bytes(value_of[one] for one in name)
        if content["model"].get("byte_fallback") and len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            return bytes.fromhex(name[3:5])
        return name.replace(_SPACE, " ").encode()

    pieces = [b""] * (max(library.get_vocab().values()) + 1)
    for name, number in library.get_vocab(with_added_tokens=False).items():
        pieces[number] = bytes_of(name)
    for number, added in library.get_added_tokens_decoder().items():
        pieces[number] = b"" if added.special else added.content.encode()
    model = content["model"]
    unknown = model.get("unk_id") if "unk_id" in model else library.token_to_id(model.get("unk_token") or "")
    if unknown is not None:
        pieces[unknown] = b""
    return pieces


def cut_by_words(content: Mapping[str, Any]) -> bool:
    """Whether words end as those of GPT-2 or BERT do, so that a long text may be cut between them."""
    normalizer, before = content.get("normalizer"), content.get("pre_tokenizer") or {}
    if any(not one.get("special") for one in content.get("added_tokens") or ()):
        return False
    if before.get("type") == "BertPreTokenizer":
        return normalizer is None or normalizer.get("type") == "BertNormalizer"
    plain = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    return normalizer is None and all(before.get(key) == value for key, value in plain.items())


def _problems(content: dict[str, Any], model: dict[str, Any]) -> Iterator[str]:
    added, vocabulary = content.get("added_tokens") or [], model.get("vocab")
    if not isinstance(added, list) or not all(
        isinstance(one, dict) and isinstance(one.get("content"), str) for one in added
    ):
        yield "has added tokens without content"
        return
    if isinstance(vocabulary, list):
        if not all(isinstance(row, list) and len(row) == 2 and type(row[1]) in (int, float) for row in vocabulary):
            yield "has a row in its vocabulary that is no piece with a score"
        if len(vocabulary) > MAX_TOKENS:
            yield f"has {len(vocabulary):,} pieces; at most {MAX_TOKENS:,} are allowed"
    elif not isinstance(vocabulary, dict):
        yield "has no vocabulary"
    ids = [*(vocabulary.values() if isinstance(vocabulary, dict) else ()), *(one.get("id") for one in added)]
    for wrong in (number for number in ids if type(number) is not int or not 0 <= number < MAX_TOKENS):
        yield f"has the token id {quoted(wrong)}; ids are whole numbers below {MAX_TOKENS:,}"
    if not vocabulary and not added:
        yield "has no token"
    if model.get("dropout"):
        yield "encodes at random (model.dropout): set it to null"
    yield from _problems_of_words(model)
    yield from _problems_of_steps(content)


def _problems_of_words(model: dict[str, Any]) -> Iterator[str]:
    longest = model.get("max_input_chars_per_word", 0)
    if type(longest) is not int or longest > LONGEST_WORD:
        yield f"has max_input_chars_per_word {quoted(longest)}; at most {LONGEST_WORD:,} are allowed"
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):  # written before or after every part of a word
        if isinstance(mark := model.get(key), str) and len(mark) > GROWTH:
            yield f"has a {key} of {len(mark):,} characters; at most {GROWTH} are allowed"


def _problems_of_steps(content: dict[str, Any]) -> Iterator[str]:
    growth = 1
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        for step in _steps(content.get(part)):
            pattern = step.get("pattern")
            expression = pattern.get("Regex") if isinstance(pattern, dict) else None
            if isinstance(expression, str) and (problem := pattern_problem(expression)):
                yield f"{part} has the pattern {quoted(expression)}, which {problem}"
            written = step.get("content", step.get("prepend", ""))
            growth *= max(1, len(written) if isinstance(written, str) else 1)
            if step.get("type") == "Precompiled":
                if (longest := _longest_replacement(step.get("precompiled_charsmap"))) is None:
                    yield f"{part} has a map of characters that cannot be read"
                growth *= max(1, longest or 1)
    if growth > GROWTH:
        yield f"makes {growth:,} characters of one; at most {GROWTH} are allowed"


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """The steps of a normaliser, pre-tokenizer or decoder, which may be sequences of sequences."""
    waiting = [part]
    while waiting:
        if isinstance(one := waiting.pop(0), dict):
            inner = next((one[key] for key in ("normalizers", "pretokenizers", "decoders") if key in one), None)
            if isinstance(inner, list):
                waiting = [*inner, *waiting]
            else:
                yield {"type": None, **one}


def _longest_replacement(value: Any) -> int | None:
    """The most characters that a map of SentencePiece writes for one; None: it is no such map.

    It has the size of a trie, the trie, and all replacements, each before a zero. Those of NFKC have up to 18.
    """
    try:
        data = base64.b64decode(value, validate=True)
        size = int.from_bytes(data[:4], "little")
        written = data[4 + size :].decode("utf-8")
    except (TypeError, ValueError):
        return None
    if len(data) < 4 + size or size % 4:
        return None
    return max(map(len, written.split("\0")))


def _writes_space(step: Mapping[str, Any]) -> bool:
    return step["type"] == "Replace" and step.get("pattern") == {"String": " "} and step.get("content") == _SPACE


def _reads_space(step: Mapping[str, Any]) -> bool:
    return step["type"] == "Replace" and step.get("pattern") == {"String": _SPACE} and step.get("content") == " "
