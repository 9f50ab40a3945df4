"""Append to and read files with one JSON object a line; a damaged line does not affect the others."""

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from blockformer.errors import UserError
from blockformer.files import as_json, open_to_append, write_atomically
from registry.text import printable

Row = dict[str, Any]
Check = Callable[[Row], bool]


def read_rows(path: Path, check: Check = lambda row: True) -> list[Row]:
    """The rows of a file, without those that are damaged or cut off; none if there is no such file.

    Args:
        path: the file.
        check: whether a row can be one of this file.

    Raises:
        UserError: the path is not that of a regular file.
    """
    return [row for line in _lines(path) if (row := _row(line, check)) is not None]


def repaired_rows(path: Path, check: Check = lambda row: True) -> list[Row]:
    """The rows of a file, whose damaged lines are moved to a file beside it, with a note on stderr.

    Args:
        path: the file, such as `metrics.jsonl`; the other one is then `metrics.damaged.jsonl`.
        check: whether a row can be one of this file.

    Raises:
        UserError: the path is not that of a regular file.
    """
    lines = _lines(path)
    rows = [_row(line, check) for line in lines]
    if None in rows:
        aside = path.with_suffix(f".damaged{path.suffix}")
        damaged = [number for number, row in enumerate(rows) if row is None]
        with open_to_append(aside) as stream:
            stream.writelines(lines[number] + b"\n" for number in damaged)
        whole = b"".join(line + b"\n" for line, row in zip(lines, rows, strict=True) if row is not None)
        write_atomically(path, lambda stream: stream.write(whole))
        which = f"line {damaged[0] + 1}" + (f" and {len(damaged) - 1} more" if len(damaged) > 1 else "")
        print(f"note: {printable(path)}: {which} damaged; moved to {aside.name}", file=sys.stderr, flush=True)
    return [row for row in rows if row is not None]


def append_row(path: Path, row: Row) -> None:
    """Append a row, after setting aside what is damaged.

    Raises:
        UserError: the path is not that of a regular file.
        OSError: it cannot be written.
    """
    repaired_rows(path)
    with open_to_append(path) as stream:
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.write(b"\n")
        stream.write(as_line(row).encode())


def as_line(row: Row) -> str:
    """A row as JSON on one line, with null for infinity and NaN, which JSON does not have."""
    return as_json(row) + "\n"


def _lines(path: Path) -> list[bytes]:
    """The lines of a file that are not empty."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is not a regular file; move it away")
    return [line for line in path.read_bytes().split(b"\n") if line] if path.exists() else []


def _row(line: bytes, check: Check) -> Row | None:
    """The row of a line; None: it is damaged."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
        if not isinstance(row, dict) or not _is_plain(cast("Row", row)):
            return None
    except (ValueError, RecursionError):
        return None
    return cast("Row", row) if check(cast("Row", row)) else None


def _is_plain(row: Row) -> bool:
    """Whether a row holds finite numbers of 64 bits and texts under texts, which can be written again."""
    for key, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if not isinstance(value, str | int | float | None) or (isinstance(value, int) and abs(value) >= 2**63):
            return False
        f"{key}{value}".encode()  # raises ValueError for half a surrogate, and for too long a number
    return True
