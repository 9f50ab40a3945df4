"""The mean of several checkpoints of one run, or of several runs of one model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blockformer.assembly.checkpoint import METADATA, VERSION, model_weights, read_checkpoint
from blockformer.errors import UserError
from blockformer.training.derived_checkpoint import require_new, write_derived

_SAME = ("recipe_hash", "tokenizer", "objective")
"""What the metadata of the checkpoints must agree in."""
_OF_A_RUN = ("step", "epoch", "tokens", "total_steps", "finished", "evaluation", "validated_step", "warm_start")
"""What a mean does not have."""


def average_checkpoints(paths: Sequence[str | Path], out: str | Path) -> Path:
    """Write a checkpoint whose weights are the mean of those of other checkpoints.

    It can be validated, generate text, be exported and start other runs (`--init-from`). It has no optimizer's
    state, so no run continues from it.

    Args:
        paths: two or more checkpoints of one recipe, with one tokenizer; each is read once, one after another.
        out: the file to write; it must not exist.

    Returns:
        The file.

    Raises:
        LoadError: a checkpoint is missing or damaged.
        UserError: there are fewer than two, they are of different models, or the file exists.
    """
    out = Path(out)
    if len(paths) < 2:
        raise UserError("average needs two or more checkpoints")
    require_new(out)
    first: Mapping[str, Any] = {}
    version: Any = None
    wanted: dict[str, torch.Size] | None = None
    sums, types = dict[str, Tensor](), dict[str, torch.dtype]()
    for path in paths:
        content = read_checkpoint(path, mmap=True)
        metadata, weights = content[METADATA], model_weights(content)
        first, version = first or metadata, content.get(VERSION)
        for key in _SAME:
            if metadata.get(key) != first.get(key):
                raise UserError(
                    f"{path}: has another {key.partition('_')[0]} than {paths[0]}, so they cannot be averaged"
                )
        shapes = {name: tensor.shape for name, tensor in weights.items()}
        wanted = shapes if wanted is None else wanted
        if shapes != wanted:
            raise UserError(f"{path}: has tensors of other names or shapes than {paths[0]}: one of them is damaged")
        for name, tensor in weights.items():
            if not tensor.is_floating_point():
                sums[name] = tensor.clone()  # such as a count: the last one stays
            elif name in sums:
                sums[name] += tensor
            else:
                sums[name] = tensor.to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
            types[name] = tensor.dtype
    means = {
        name: (total / len(paths) if total.is_floating_point() else total).to(types[name])
        for name, total in sums.items()
    }
    kept = {key: value for key, value in first.items() if key not in _OF_A_RUN}
    write_derived(out, means, kept, version)
    return out
