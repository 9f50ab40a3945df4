"""One file of a sharded checkpoint."""

from pathlib import Path

import torch

from blockformer.assembly.checkpoint import read_training_state
from blockformer.assembly.checkpoint_parts import parts_of
from blockformer.errors import UserError
from blockformer.files import write_atomically
from blockformer.generation.trained_folder import find_checkpoint
from blockformer.training.derived_checkpoint import require_new


def consolidate(path: str | Path, out: str | Path) -> tuple[int, int]:
    """Write a checkpoint as one file, with the whole state of the training; it needs main memory of its size.

    Args:
        path: a sharded checkpoint, or a run's folder: its best checkpoint, or else its last.
        out: the file to write; it must not exist.

    Returns:
        How many tensors there are, and of how many files they are made.

    Raises:
        LoadError: the checkpoint or a part of it is missing or damaged.
        UserError: it is one file, or the file exists.
    """
    path, out = find_checkpoint(Path(path)), Path(out)
    require_new(out)
    parts = parts_of(path)
    if parts is None:
        raise UserError(f"{path}: is one file already; use it as it is")
    content = read_training_state(path)
    write_atomically(out, lambda stream: torch.save(content, stream))
    return len(parts.table.tensors), len(parts.table.files)
