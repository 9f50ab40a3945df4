"""Read what W&B kept offline: `run-ID.wandb`, a log of protobuf records framed as LevelDB frames its own.

The file begins with `:W&B`, two bytes of magic and a version. Blocks of 32 KiB follow, the first with the file's header
in it; a record, or a piece of one, has 4 bytes of checksum, 2 of length and 1 that says which piece it is. No piece
crosses a block's end. A file that was cut off yields the whole records before the cut.
"""

import json
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEAD = 32 * 1024, 7
PATIENCE = 10  # seconds to wait for the record of the end, which a killed run does not have
WHOLE, _FIRST, _MIDDLE, END = 1, 2, 3, 4


@dataclass
class Logged:
    """One run as W&B has it on disk."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    artifacts: list[tuple[str, str]] = field(default_factory=list)
    exit_code: int | None = None


def read_run(folder: Path) -> Logged:
    """Gather the records of the one run in this folder, whose last ones W&B's own process may write a little later."""
    (path,) = folder.glob("**/*.wandb")
    deadline = time.monotonic() + PATIENCE
    while (logged := _read(path)).exit_code is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return logged


def history(path: Path) -> list[dict[str, Any]]:
    """The rows in one file."""
    return _read(path).history


def _read(path: Path) -> Logged:
    logged = Logged()
    for record in records(path.read_bytes()):
        match record.WhichOneof("record_type"):
            case "run":
                logged.run = record.run
                logged.config |= _values(record.run.config.update)
            case "config":
                logged.config |= _values(record.config.update)
            case "history":
                logged.history.append(_values(record.history.item))
            case "summary":
                logged.summary |= _values(record.summary.update)
            case "metric":
                logged.metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
            case "artifact":
                logged.artifacts.append((record.artifact.type, record.artifact.name))
            case "exit":
                logged.exit_code = record.exit.exit_code
            case _:
                pass
    return logged


def records(data: bytes) -> Iterator[Any]:
    """Every whole record; a wrong checksum is an error, an end that is missing is not."""
    assert data[:4] == b":W&B"
    place, pieces = HEAD, b""
    while place + HEAD <= len(data):
        left = BLOCK - place % BLOCK
        checksum, length, piece = struct.unpack("<IHB", data[place : place + HEAD]) if left >= HEAD else (0, 0, 0)
        if piece == 0:  # padding
            place += left
            continue
        body = data[place + HEAD : place + HEAD + length]
        if len(body) < length:
            return
        assert checksum == zlib.crc32(bytes([piece]) + body)
        place, pieces = place + HEAD + length, pieces + body
        if piece in (WHOLE, END):
            record = Record()
            record.ParseFromString(pieces)
            pieces = b""
            yield record


def _values(items: Any) -> dict[str, Any]:
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
