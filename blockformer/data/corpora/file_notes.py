"""Warnings about data files: tables or markup read as plain text, and text that is in more than one split."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from blockformer.data import plain_text
from blockformer.data.corpora.corpus import Pair
from blockformer.data.formats import name_markup

_HEADERS = frozenset(
    (
        *(
            "source",
            "target",
            "src",
            "tgt",
            "trg",
            "input",
            "output",
            "text",
            "label",
            "translation",
            "question",
            "answer",
        ),
        *("prompt", "completion", "response", "sentence", "sentence1", "sentence2", "reference", "summary", "article"),
        *("document", "query", "passage", "english", "german", "french", "spanish", "italian"),
        *(
            "en",
            "de",
            "fr",
            "es",
            "it",
            "pt",
            "nl",
            "pl",
            "ru",
            "zh",
            "ja",
            "ko",
            "ar",
            "hi",
            "tr",
            "cs",
            "sv",
            "fi",
            "da",
        ),
    )
)
_LINES = 20  # of a text; compared with another text
_LONG = 40  # characters of a line that another text has by accident only rarely


def markup_notes(texts: Mapping[Path, str]) -> Iterator[str]:
    """Files of plain text that look like JSON, a table or markup."""
    found: dict[tuple[str, str], list[Path]] = {}
    for path, text in texts.items():
        if (what := name_markup(path.name, text)) is not None:
            found.setdefault(what, []).append(path)
    for (what, remedy), paths in found.items():
        yield f"{_several(paths, 'looks', 'look')} like {what}, which is read as plain text; {remedy}"


def pair_notes(pairs: Mapping[Path, Sequence[Pair]]) -> Iterator[str]:
    """Files of pairs that begin with a header, or whose fields are in quotes."""
    for path, content in pairs.items():
        if all(_is_header(field) for field in content[0]):
            first = " and ".join(map(repr, content[0]))
            yield f"{path}: the first pair, {first}, looks like a header; it is read as a pair: remove the line"
    quoted = [path for path, content in pairs.items() if len(content) > 2 and all(map(_is_quoted, content[1:100]))]
    if quoted:
        yield f"{_several(quoted, 'has', 'have')} its fields in quotes, which are read as text; remove them"


def _is_header(field: str) -> bool:
    words = field.strip("\"'").lower().replace("_", " ").replace("-", " ").split()
    return 0 < len(words) <= 3 and _HEADERS.issuperset(words)


def _is_quoted(pair: Pair) -> bool:
    return all(len(field) > 1 and field[0] == field[-1] == '"' for field in pair)


def repetition_notes(named_again: Sequence[Path], contents: Mapping[Path, object]) -> Iterator[str]:
    """Training files that are named twice, and different ones with the same content."""
    if named_again:
        several = f" (and {len(named_again) - 1} more)" if len(named_again) > 1 else ""
        yield f"data.files names {named_again[0]}{several} more than once; each file is read once"
    by_content: dict[object, list[Path]] = {}
    for path, content in contents.items():
        by_content.setdefault(_digest(content), []).append(path)
    for first, *others in (paths for paths in by_content.values() if len(paths) > 1):
        yield f"{_several(others, 'has', 'have')} the same content as {first}; it is trained on {len(others) + 1} times"


def overlap_notes(split: str, own: Mapping[Path, str], others: Mapping[str, Mapping[Path, str]]) -> Iterator[str]:
    """Text of a split's own files that is also in files of other splits."""
    for other, texts in others.items():
        digests = {_digest(text): path for path, text in texts.items()}
        equal = {path: digests[key] for path, text in own.items() if (key := _digest(text)) in digests}
        for path, same in equal.items():
            what = f"is the {_NAMES[other]} file {same}" if path.samefile(same) else f"has the content of {same}"
            yield f"the {split} file {path} {what}: {_consequence(split, other)}"
        lines = [line for path, text in own.items() if path not in equal for line in _sample(text)]
        shared = sum(any(line in text for text in texts.values()) for line in lines)
        if lines and 2 * shared >= len(lines):
            yield (
                f"{shared} of {len(lines)} lines drawn from the {split} text are also in the {_NAMES[other]} text: "
                f"{_consequence(split, other)}"
            )


def pair_overlap_note(split: str, own: Sequence[Pair], other: str, others: Sequence[Pair]) -> Iterator[str]:
    """How many pairs of a split are also in another."""
    known = set(others)
    yield from overlap_note(split, sum(pair in known for pair in own), len(own), "pairs", other)


def overlap_note(split: str, shared: int, of: int, what: str, other: str) -> Iterator[str]:
    """A note on pairs or rows of a split that are also in another, if there are any."""
    if shared:
        yield f"{shared:,} of {of:,} {split} {what} are also {_NAMES[other]} {what}: {_consequence(split, other)}"


_NAMES = {"train": "training", "validation": "validation", "test": "test"}


def _consequence(split: str, other: str) -> str:
    if other == "train":
        return f"the {split} figures are measured on training text"
    return "the best checkpoint is chosen on test text"


def _sample(text: str) -> list[str]:
    """Some long lines of a text, from its beginning to its end."""
    lines = [line.strip() for line in plain_text.lines(text)]
    long = [line for line in lines if len(line) >= _LONG]
    return long[:: max(1, len(long) // _LINES)][:_LINES]


def _digest(content: object) -> bytes:
    return hashlib.sha256((content if isinstance(content, str) else repr(content)).encode()).digest()


def _several(paths: Sequence[Path], one: str, more: str) -> str:
    return f"{paths[0]} {one}" if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more files {more}"
