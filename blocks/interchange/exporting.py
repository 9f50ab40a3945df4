"""From a recipe and its parameters to a Hugging Face folder."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any

from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from blocks.interchange.config import Config
from blocks.interchange.configuring import config_of, family_for
from blocks.interchange.errors import InterchangeError
from blocks.interchange.family import Family
from blocks.interchange.filling import Filling
from blocks.interchange.rules import rules_of
from blocks.interchange.writing import write_tensors
from registry import Recipe


def export_folder(
    recipe: Recipe,
    parameters: Mapping[str, Tensor],
    out: str | Path,
    family: Family | None = None,
    tokens: Mapping[str, Any] | None = None,
) -> Path:
    """Write config.json and model.safetensors for transformers to read.

    Args:
        recipe: the model.
        parameters: its parameters, by name.
        out: a folder that does not exist yet.
        family: in whose terms; None: the first that can say the recipe.
        tokens: ids of special tokens, such as ``bos_token_id``.

    Raises:
        InterchangeError: no family can say the recipe, or the folder exists or cannot be written.
    """
    out = Path(out)
    chosen, config = family_for(recipe) if family is None else (family, config_of(recipe, family))
    config |= {key: value for key, value in (tokens or {}).items() if config.get(key) is None}
    try:
        tensors = write_tensors(rules_of(Filling(chosen, Config(config), {"tensors": frozenset[str]()})), parameters)
    except ValueError as error:
        raise InterchangeError.at(chosen.path, str(error)) from None
    if out.exists():
        raise InterchangeError.at(out, "exists already; remove it, or choose another place with --out")
    draft = out.parent / f".{out.name}.{token_hex(4)}"
    try:
        draft.mkdir(parents=True)
        (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(tensors, draft / "model.safetensors", metadata={"format": "pt"})
        draft.replace(out)
    except OSError as error:
        raise InterchangeError.at(out, f"cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return out
