"""What a full run has drawn and found so far, in files that an interruption leaves whole."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from blockformer.files import write_text

Row = dict[str, Any]


def fingerprint() -> str:
    """Of all the code that a recipe runs: what was found by other code does not count."""
    here = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for room in (here, here.parent / "registry"):
        for path in sorted(room.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Rows as lines of JSON."""
    write_text(path, "".join(f"{json.dumps(row)}\n" for row in rows))


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, none if there is none; a last line that was torn off is left out."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield cast("Row", json.loads(line))


def append_row(path: Path, row: Row) -> None:
    """Add one row, on the disk before this returns."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{json.dumps(row)}\n")
        file.flush()
        os.fsync(file.fileno())
