"""The rows that earlier processes of a run gave to Weights & Biases, which a continued run does not repeat."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CLOCKS = frozenset({"seconds", "tokens_per_second", "mfu", "peak_memory_mib", "checkpoint_seconds"})
"""Figures of a row that differ, or are missing, when the same step is made again."""
READERS = 4  # processes at once; each takes about a second to start
Row = Mapping[str, Any]


class SentRows:
    """Rows by their step and the names of their figures.

    Args:
        rows: each with `step`; the value of a picture or a table is not compared.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._rows: dict[tuple[Any, frozenset[str]], list[Row]] = defaultdict(list)
        for row in rows:
            self._rows[_key(row)].append(row)

    @classmethod
    def read(cls, folder: Path) -> "SentRows":
        """The rows in all files that W&B has in `folder`.

        Raises:
            OSError, ValueError: W&B's own command cannot read a file.
        """
        with ThreadPoolExecutor(READERS) as pool:
            return cls(row for rows in pool.map(_history, sorted(folder.glob("*run-*/run-*.wandb"))) for row in rows)

    def has(self, row: Row) -> bool:
        """Whether a row of the same figures was sent, apart from what a clock shows."""
        return any(_same(row, other) for other in self._rows.get(_key(row), ()))


def _key(row: Row) -> tuple[Any, frozenset[str]]:
    return row.get("step"), frozenset(row) - CLOCKS


def _same(row: Row, other: Row) -> bool:
    """Whether two rows of the same figures are equal; W&B writes what is not finite as a text, such as `Infinity`."""
    plain = (name for name in row if name not in CLOCKS and isinstance(row[name], int | float))
    return all(float(other[name]) == row[name] or row[name] != row[name] for name in plain)


def _history(file: Path) -> list[dict[str, Any]]:
    """The rows in one file, also if its end was cut off; a picture or a table is None."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    quiet = os.environ | {"WANDB_ERROR_REPORTING": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=quiet, check=False)
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    return [_row(record["history"]["item"]) for record in _records(done.stdout) if record["type"] == "history"]


def _records(text: str) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in text.splitlines() if line.startswith("{"))


def _row(item: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it was given: W&B adds names that begin with `_`, and writes NAME.KEY for the parts of a medium."""
    media = [name.removesuffix("._type") for name in item if name.endswith("._type")]
    own = {name: value for name, value in item.items() if not name.startswith("_")}
    plain = {name: value for name, value in own.items() if not any(name.startswith(f"{medium}.") for medium in media)}
    return plain | dict.fromkeys(media)
