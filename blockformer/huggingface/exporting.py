"""From a recipe and its parameters to a Hugging Face folder."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from torch import Tensor

from blockformer.huggingface.config import Config
from blockformer.huggingface.errors import InterchangeError
from blockformer.huggingface.family import Family
from blockformer.huggingface.folder import drafted
from blockformer.huggingface.importing import Imported
from blockformer.huggingface.rules import rules_of
from blockformer.huggingface.template import Filling
from blockformer.huggingface.to_config import config_of, family_for
from blockformer.huggingface.writing import write_tensors
from registry import Recipe

SHARD_SIZE = "5GB"
GENERATION = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id")


def export_folder(
    recipe: Recipe,
    parameters: Mapping[str, Tensor],
    out: str | Path,
    family: Family | None = None,
    tokens: Mapping[str, Any] | None = None,
) -> Path:
    """Write a folder for transformers to read; see :func:`write_export`.

    Raises:
        InterchangeError: no family can say the recipe, or the folder exists or cannot be written.
    """
    with drafted(out) as draft:
        write_export(recipe, parameters, draft, family, tokens)
    return Path(out)


def write_export(
    recipe: Recipe,
    parameters: Mapping[str, Tensor],
    folder: Path,
    family: Family | None = None,
    tokens: Mapping[str, Any] | None = None,
    shard_size: str = SHARD_SIZE,
) -> Imported:
    """Write config.json, generation_config.json and the tensors.

    Args:
        recipe: the model.
        parameters: its parameters, by name.
        folder: where to write; it exists.
        family: in whose terms; None: the nearest that can say the recipe.
        tokens: ids of special tokens, such as ``bos_token_id``.
        shard_size: the largest file, such as ``5GB``; what is larger is cut into several with an index.

    Returns:
        What an import of this folder shall give, to be verified.

    Raises:
        InterchangeError: no family can say the recipe with these tokens.
    """
    given = {key: value for key, value in (tokens or {}).items() if value is not None}
    chosen, config = family_for(recipe) if family is None else (family, config_of(recipe, family))
    for key, value in given.items():
        if config.get(key) not in (None, value):
            message = f"{chosen.name} needs {key} {config[key]}, but the tokenizer has {value}"
            raise InterchangeError.at(recipe.name, message)
    config |= given | {"torch_dtype": stored_type(parameters)}
    try:
        tensors = write_tensors(rules_of(Filling(chosen, Config(config), {"tensors": frozenset[str]()})), parameters)
    except ValueError as error:
        raise InterchangeError.at(chosen.path, str(error)) from None
    write_json(folder / "config.json", config)
    write_generation(folder, recipe, given)
    write_weights(folder, tensors, shard_size)
    return Imported(folder, chosen, recipe, parameters, given)


def stored_type(parameters: Mapping[str, Tensor]) -> str:
    """The type of most numbers, as configs name it."""
    sizes: dict[str, int] = {}
    for tensor in parameters.values():
        name = str(tensor.dtype).removeprefix("torch.")
        sizes[name] = sizes.get(name, 0) + tensor.numel()
    return max(sizes, key=lambda name: sizes[name])


def write_generation(folder: Path, recipe: Recipe, tokens: Mapping[str, Any]) -> None:
    """Write what ``generate`` of transformers begins and ends a text with, for a model that writes."""
    known = {key: tokens[key] for key in GENERATION if key in tokens}
    if known and recipe.dump()["type"] != "encoder_only":
        write_json(folder / "generation_config.json", known)


def write_weights(folder: Path, tensors: Mapping[str, Tensor], shard_size: str) -> None:
    """Write model.safetensors, or its parts and their index.

    Raises:
        InterchangeError: the size of a part cannot be read.
    """
    try:
        save_torch_state_dict(dict(_apart(tensors)), folder, max_shard_size=shard_size)
    except ValueError as error:
        raise InterchangeError.at("--shard-size", f"{shard_size!r} is no size such as 5GB: {error}") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file as Hugging Face lays such files out."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _apart(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor in memory of its own: one that shares it, or is a part of it as one expert of all, is not written."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        alone = storage.data_ptr() not in seen and storage.nbytes() == tensor.nbytes
        yield name, tensor if alone else tensor.clone()
        seen.add(storage.data_ptr())
