"""Read training checkpoints. Only tensors and plain data are read, so no code in a checkpoint ever runs.

A checkpoint is the zip archive that `torch.save` writes. It has a CRC-32 of each of its parts, which `torch.load` does
not compare; here they are compared, so that a damaged file is refused instead of being used with other weights.
"""

import contextlib
from collections.abc import Generator, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from blockformer.assembly.archive import (
    DamagedError,
    LoadError,
    compare_checksums,
    file_version,
    regular_file,
    unpickled,
)
from blockformer.assembly.checkpoint_parts import StoredTensor, insert_stored, parts_of, with_values
from blockformer.assembly.checkpoint_schema import (
    FORMAT,
    METADATA,
    PREFIX,
    MalformedError,
    checked,
    checked_metadata,
    short_name,
    tensor_problem,
)
from blockformer.assembly.parts_table import PARTS

CHECKPOINTS = ("checkpoints/best.ckpt", "checkpoints/last.ckpt")  # in a run's folder, best first
VERSION = "pytorch-lightning_version"

__all__ = ["FORMAT", "METADATA", "PARTS", "PREFIX", "DamagedError", "LoadError"]


def checkpoint_in(folder: Path) -> Path | None:
    """The best or else the last checkpoint of a run's folder; None if it has neither."""
    return next((folder / name for name in CHECKPOINTS if (folder / name).is_file()), None)


def read_checkpoint(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint, with its weights in main memory, and check it.

    Args:
        path: the checkpoint's file.
        mmap: map the tensors from the file instead of reading them; their checksums are compared all the same.

    Returns:
        The content; of a sharded checkpoint the optimizer's tensors and others that are no weights are
        :class:`~blockformer.assembly.checkpoint_parts.StoredTensor`.

    Raises:
        LoadError: the file is missing or damaged, is not a checkpoint of this project and format, or holds something
            that a checkpoint does not; a whole checkpoint beside a damaged one is named.
    """
    path = Path(path)
    content = _content(path, mmap)
    if PARTS in content:
        with _naming_another(path):
            _fill(content, path, "state_dict")
    return content


def read_training_state(path: str | Path, *, mmap: bool = False, lazy: bool = False) -> dict[str, Any]:
    """Read a checkpoint for Lightning, which decides by the stored version how to read it.

    Args:
        path: the checkpoint's file.
        mmap: as for :func:`read_checkpoint`.
        lazy: read no tensor of a sharded checkpoint, but give stored tensors.

    Raises:
        LoadError: as for :func:`read_checkpoint`, or the version is missing.
    """
    path = Path(path)
    content = _content(path, mmap)
    if content.get(VERSION) is None:
        raise LoadError(f"{path}: {VERSION} is missing, so training cannot continue from this checkpoint")
    if PARTS in content and not lazy:
        with _naming_another(path):
            _fill(content, path, *(key for key in content if key != PARTS))
        del content[PARTS]
    return content


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint's metadata alone (see :func:`blockformer.training.metadata.run_metadata`), not its tensors.

    Raises:
        LoadError: as for :func:`read_checkpoint`, but the tensors are not looked at.
    """
    path = Path(path)
    with _naming_another(path):
        return _metadata(path)


def required_value(metadata: Mapping[str, Any], key: str, path: str | Path) -> Any:
    """A value that a use of a checkpoint needs.

    Raises:
        LoadError: the checkpoint does not have it.
    """
    if metadata.get(key) is None:
        raise LoadError(f"{path}: {METADATA}.{key} is missing, so this command cannot use the checkpoint")
    return metadata[key]


def model_weights(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The model's parameters by name, without the rest of the training state."""
    state = cast("dict[str, Tensor]", content["state_dict"])
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}


def verify(path: str | Path) -> None:
    """Compare the whole file with its checksums, once in a process unless the file changes.

    The parts of a sharded checkpoint are looked for; their content is compared when it is read.

    Raises:
        LoadError: it cannot be read, or is not as it was written; a whole checkpoint beside it is named.
    """
    path = Path(path)
    with _naming_another(path):
        _verify(path)


def _verify(path: Path, *, whole: bool = False) -> None:
    _verified(path, file_version(path))
    if (parts := parts_of(path)) is not None:
        parts.verify()
        if whole:
            parts.compare()


@lru_cache(maxsize=64)
def _verified(path: Path, version: tuple[int, ...]) -> None:
    """:func:`verify` of one version of a file; an error is not remembered."""
    compare_checksums(path)


def _content(path: Path, mmap: bool) -> dict[str, Any]:
    """The checked content; tensors of a sharded checkpoint are stored tensors."""
    verify(path)
    content = unpickled(path, mmap)
    with _naming_another(path):
        parts = None
        if isinstance(content, dict) and PARTS in content:
            insert_stored(content, path)
            parts = content.pop(PARTS)
        try:
            content = checked(content, StoredTensor)
        except MalformedError as error:
            raise LoadError(f"{path}: {error}") from None
    return content if parts is None else content | {PARTS: parts}


def _fill(content: dict[str, Any], path: Path, *keys: str) -> None:
    """Replace the stored tensors under some keys by their values."""
    for key in keys:
        content[key] = with_values(content[key])
    for name, tensor in content["state_dict"].items():
        if problem := tensor_problem(tensor):
            raise LoadError(f"{path}: state_dict.{short_name(name)} {problem}")


def _metadata(path: Path) -> dict[str, Any]:
    regular_file(path)
    compare_checksums(path, lambda name: name.endswith("/data.pkl"))
    try:
        return checked_metadata(unpickled(path, mmap=True))
    except MalformedError as error:
        raise LoadError(f"{path}: {error}") from None


@contextlib.contextmanager
def _naming_another(path: Path) -> Generator[None]:
    """Add the whole checkpoint beside a damaged one to the error."""
    try:
        yield
    except DamagedError as error:
        raise DamagedError(f"{error}{_alternative(path)}") from None


def _alternative(damaged: Path) -> str:
    """The newest whole checkpoint beside a damaged one. It is named, not taken: the user decides about going back."""
    whole: list[tuple[int, str]] = []
    for path in _beside(damaged):
        with contextlib.suppress(LoadError):
            _verify(path, whole=True)
            whole.append((_metadata(path).get("step", 0), str(path)))
    return "; {1} (step {0}) is intact: --ckpt_path {1} continues from there".format(*max(whole)) if whole else ""


def _beside(path: Path) -> Iterable[Path]:
    with contextlib.suppress(OSError):
        return [other for other in path.parent.glob("*.ckpt") if other != path]
    return []
