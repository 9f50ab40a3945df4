"""Checkpoints that are made of others, without an optimizer's state."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blockformer.assembly.checkpoint import METADATA, PREFIX, VERSION
from blockformer.errors import UserError
from blockformer.files import write_atomically


def require_new(out: Path) -> None:
    """Check that a file does not exist.

    Raises:
        UserError: it does.
    """
    if out.exists():
        raise UserError(f"{out}: exists already; remove it, or choose another file")


def write_derived(out: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, Any], version: Any) -> None:
    """Write a checkpoint that can be used for all but continuing the run.

    Args:
        out: the file.
        weights: of the model, by name.
        metadata: of the model, see :func:`blockformer.training.metadata.run_metadata`.
        version: of the format, as in the checkpoint that it is made of.
    """
    state = {PREFIX + name: tensor for name, tensor in weights.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {"state_dict": state, METADATA: dict(metadata), VERSION: version}
    write_atomically(out, lambda stream: torch.save(content, stream))
