"""Recognise files that are not plain UTF-8 text: compressed, binary, in another encoding, tables, markup."""

import csv
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

HEAD = 2**16
"""Bytes at the beginning of a file that are enough to recognise it."""

_UNPACK = "unpack it first: {}"
_COLUMN = "train on one of its columns: --data.dataset table --data.column NAME"
_EXTRACT = "extract its text first: {}"
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "compressed by gzip", _UNPACK.format("gunzip")),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", _UNPACK.format("unzstd")),
    (b"\xfd7zXZ\x00", "compressed by xz", _UNPACK.format("unxz")),
    (b"BZh", "compressed by bzip2", _UNPACK.format("bunzip2")),
    (b"\x04\x22\x4d\x18", "compressed by lz4", _UNPACK.format("unlz4")),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK.format("7z x")),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK.format("unrar x")),
    (b"PK\x03\x04", "a zip archive (also used by docx, epub, npz and torch)", _UNPACK.format("unzip")),
    (b"PK\x05\x06", "an empty zip archive", "name a file with text"),
    (b"%PDF-", "a PDF", _EXTRACT.format("pdftotext")),
    (b"{\\rtf", "an RTF document", _EXTRACT.format("save it as plain text in UTF-8")),
    (b"\xd0\xcf\x11\xe0", "an old Microsoft Office document", _EXTRACT.format("save it as plain text in UTF-8")),
    (b"PAR1", "a Parquet table", _COLUMN),
    (b"ARROW1", "an Arrow table", _COLUMN),
    (b"Obj\x01", "an Avro table", _EXTRACT.format("write its text column to a file")),
    (b"ORC", "an ORC table", _EXTRACT.format("write its text column to a file")),
    (b"SQLite format 3", "an SQLite database", _EXTRACT.format("sqlite3 FILE 'select ...'")),
    (b"\x89HDF\r\n", "an HDF5 file", _EXTRACT.format("write its text to a file")),
    (b"\x93NUMPY", "a NumPy array", "name a file with text; token ids cannot be read"),
    (
        b"version https://git-lfs.github.com/spec/",
        "a git-lfs pointer, not the file itself",
        "fetch the file: git lfs pull",
    ),
    (b"/annex/objects/", "a git-annex pointer, not the file itself", "fetch the file: git annex get"),
    (b"\xff\xfe\x00\x00", "in UTF-32", "convert it: iconv -f UTF-32 -t UTF-8"),
    (b"\x00\x00\xfe\xff", "in UTF-32", "convert it: iconv -f UTF-32 -t UTF-8"),
    (b"\xff\xfe", "in UTF-16", "convert it: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "in UTF-16", "convert it: iconv -f UTF-16 -t UTF-8"),
    (b"\x89PNG", "an image", "name a file with text"),
    (b"\xff\xd8\xff", "an image", "name a file with text"),
    (b"GIF8", "an image", "name a file with text"),
    (b"\x7fELF", "a program", "name a file with text"),
)
_TEXTUAL = (b"BZh", b"ORC", b"GIF8", b"PAR1", b"ARROW1")  # could begin a text; in such a file other bytes follow


def name_format(head: bytes) -> str | None:
    """What the beginning of a file shows it to be, and what to do; None: it may be UTF-8 text.

    Args:
        head: The first bytes, at most `HEAD`.
    """
    for magic, what, remedy in _MAGIC:
        if head.startswith(magic) and not (magic in _TEXTUAL and _is_text(head)):
            return f"is {what}; {remedy}"
    if head[257:262] == b"ustar":
        return f"is a tar archive; {_UNPACK.format('tar xf')}"
    if b"\0" not in head:
        return None
    if (encoding := _wide_encoding(head)) is not None:
        return f"is in {encoding} without a byte-order mark; convert it: iconv -f {encoding} -t UTF-8"
    line = head.count(b"\n", 0, head.find(0)) + 1
    return (
        f"is not text: byte 0x00 at offset {head.find(0)}, on line {line}; it is binary, or in UTF-16 or UTF-32 (then "
        "convert it: iconv -f UTF-16 -t UTF-8)"
    )


def _is_text(head: bytes) -> bool:
    """Whether the beginning of a file is UTF-8 without control characters; its last character may be incomplete."""
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode()
    return not any(ord(character) < 32 and character not in "\t\n\f\r" for character in text)


def _wide_encoding(head: bytes) -> str | None:
    """The encoding of text with four or two bytes a character: one of the two bytes hardly varies."""
    for encoding in ("UTF-32LE", "UTF-32BE"):
        try:
            if head.decode(encoding).strip("\0"):
                return encoding
        except UnicodeDecodeError:
            pass
    for encoding, zero, others in (("UTF-16LE", head[1::2], head[::2]), ("UTF-16BE", head[::2], head[1::2])):
        if 2 * zero.count(0) >= len(zero) and 0 not in others:
            return encoding
    first, second = _variety(head[::2]), _variety(head[1::2])
    if min(first, second) >= 0.2 or first == second:
        return None
    return "UTF-16LE" if second < first else "UTF-16BE"


def _variety(data: bytes) -> float:
    """The share of bytes other than the two most frequent ones."""
    return 1 - sum(number for _, number in Counter(data).most_common(2)) / max(1, len(data))


_JSON = "to train on one field, write it to a file first, for example: jq -r .text FILE"
_TABLE = "to train on one column: --data.dataset table --data.column NAME"
_HTML = "to train on its text alone, extract it first"
_JSON_READ = 2**20  # characters; parsed JSON needs many times its size
_SAMPLED = 20  # lines
_NAME = re.compile(r"[\w.-][\w .-]{0,30}")


def name_markup(name: str, text: str) -> tuple[str, str] | None:
    """What a text looks like that is more than text, and what to do to train on the text in it; None: like text.

    Args:
        name: The file's name.
        text: Its content; only the beginning is read.
    """
    ending, head = PurePath(name).suffix.lower(), text[:HEAD].lstrip()
    sample = [line for line in head.split("\n") if line.strip()]
    sample = (sample if len(text) <= HEAD else sample[:-1] or sample)[:_SAMPLED]
    if ending in (".jsonl", ".ndjson") or all(map(_is_json_object, sample)):
        return "JSON lines", _TABLE.replace("column", "field", 1)
    if head[:1] in ("{", "[") and (ending in (".json", ".ipynb") or _is_json(text)):
        return "JSON", _JSON
    if ending == ".tsv" or _is_table(sample, "\t"):
        return "a tab-separated table", _TABLE
    if ending == ".csv" or any(_is_table(sample, delimiter) for delimiter in ",;") or _is_quoted(sample):
        return "CSV", _TABLE
    if head[:200].lower().startswith(("<!doctype html", "<html", "<?xml")):
        return "HTML or XML", _HTML
    return None


def _is_json_object(line: str) -> bool:
    return line.lstrip().startswith("{") and _is_json(line)


def _is_json(text: str) -> bool:
    """Whether a text is JSON, or a long text begins as JSON."""
    beginning = text[:_JSON_READ]
    try:
        json.loads(beginning)
    except json.JSONDecodeError as error:
        at_end = error.pos >= len(beginning) - 10 or error.msg.startswith("Unterminated")
        return len(beginning) < len(text) and at_end
    except (ValueError, RecursionError):
        return False
    return True


def _is_table(lines: Sequence[str], delimiter: str) -> bool:
    """Whether lines have the same number of fields, at least two, below a line of names."""
    if len(lines) < 3:
        return False
    try:
        header, *rows = csv.reader(lines, delimiter=delimiter)
    except csv.Error:
        return False
    named = len(header) > 1 and all(map(_NAME.fullmatch, header))
    spaced = any(field.startswith(" ") for row in rows for field in row)  # as after a comma in a sentence
    return named and not spaced and all(len(row) == len(header) for row in rows)


def _is_quoted(lines: Sequence[str]) -> bool:
    """Whether all lines but the first are in quotes: a table of one column."""
    return len(lines) > 3 and all(len(line) > 1 and line[0] == line.rstrip()[-1] == '"' for line in lines[1:])
