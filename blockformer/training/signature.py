"""Signatures of files that a run names, to trust the file names in this user's own checkpoints only.

A run signs the names of the files that its data and its objective read with a key that only this user has. So a run
continues from one's own checkpoint without naming the files again, and a checkpoint from elsewhere can't make a command
read a file of its choice.
"""

import contextlib
import hashlib
import hmac
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blockformer.data.options import files_read
from blockformer.training.objectives import paths_read

_KEY_BYTES = 32


def sign(data: Mapping[str, Any], objective: Mapping[str, Any]) -> str | None:
    """The signature of what the settings of data and objective name to be read; None: there is no place for a key."""
    key = _key()
    return None if key is None else _signature(key, data, objective)


def is_signed(data: Mapping[str, Any], objective: Mapping[str, Any], signature: Any) -> bool:
    """Whether a signature is this user's, for what these settings name."""
    key = _key() if isinstance(signature, str) and signature.isascii() else None
    return key is not None and hmac.compare_digest(_signature(key, data, objective), signature)


def key_file() -> Path:
    """Where the key lies: `blockformer/key` in `$XDG_STATE_HOME` or `~/.local/state`."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "blockformer" / "key"


def _signature(key: bytes, data: Mapping[str, Any], objective: Mapping[str, Any]) -> str:
    named: list[Any] = [data.get("dataset"), {name: data.get(name) for name in files_read(data)}]
    if read := {name: objective.get(name) for name in paths_read(objective)}:
        named += [objective.get("type"), read]
    return hmac.new(key, json.dumps(named, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def _key() -> bytes | None:
    """The key, made at its first use; of several processes that make it at once, one wins and all use its key."""
    with contextlib.suppress(OSError, RuntimeError):  # no home, or one that cannot be written
        place = key_file()
        if not place.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            descriptor, draft = tempfile.mkstemp(dir=place.parent)  # for its owner only
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(os.urandom(_KEY_BYTES))
            with contextlib.suppress(FileExistsError):
                os.link(draft, place)
            Path(draft).unlink()
        key = place.read_bytes()
        return key if len(key) == _KEY_BYTES else None
    return None
