"""A checkpoint whose adapters are folded into the weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blockformer.assembly.checkpoint import METADATA, VERSION, model_weights, read_checkpoint
from blockformer.assembly.loading import build_with_weights, stored_recipe
from blockformer.assembly.merging import merge, without_adapters
from blockformer.errors import UserError
from blockformer.generation.trained_folder import find_checkpoint
from blockformer.training.derived_checkpoint import require_new, write_derived

PATTERNS = ("train", "freeze", "groups")
"""Settings of the optimizer that name parameters."""


def merge_checkpoint(path: str | Path, out: str | Path) -> list[str]:
    """Write a checkpoint of the model without adapters that computes the same.

    It can be validated, generate text, be exported and start other runs (`--init-from`). It has no optimizer's
    state, so no run continues from it.

    Args:
        path: a checkpoint, or a run's folder: its best checkpoint, or else its last.
        out: the file to write; it must not exist.

    Returns:
        Names of the projections whose adapters were folded in.

    Raises:
        LoadError: the checkpoint is missing or damaged.
        UserError: its model has no adapters, or the file exists.
    """
    path, out = find_checkpoint(Path(path)), Path(out)
    require_new(out)
    content = read_checkpoint(path)
    metadata = content[METADATA]
    recipe = stored_recipe(path, metadata)
    model = build_with_weights(recipe, model_weights(content))
    merged = merge(model)
    if not merged:
        raise UserError(f"{path}: the model has no adapters, so there is nothing to merge; use it as it is")
    plain = without_adapters(recipe)
    changed = metadata | {"recipe": plain.dump(), "recipe_hash": plain.hash, "config": _without_names(metadata)}
    write_derived(out, model.state_dict(), changed, content.get(VERSION))
    return merged


def _without_names(metadata: Mapping[str, Any]) -> Any:
    """The configuration without the optimizer's patterns, which may name adapters."""
    config = metadata.get("config")
    if not isinstance(config, dict) or not isinstance(optimizer := config.get("optimizer"), dict):
        return config
    return config | {"optimizer": {key: value for key, value in optimizer.items() if key not in PATTERNS}}
