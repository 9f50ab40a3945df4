"""Export a model: its recipe becomes a config.json, its parameters become tensors that transformers loads."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blockformer.assembly.checkpoint import read_metadata
from blockformer.assembly.extra_predictions import drop_extra_predictions, without_extra_predictions
from blockformer.assembly.imported_folder import imported_metadata
from blockformer.assembly.loading import RECIPE, WEIGHTS, load_with_recipe
from blockformer.assembly.merging import merge, without_adapters
from blockformer.data import hub_tokenizer
from blockformer.data.tokenizers.file import FileTokenizer
from blockformer.generation.text_model import TextModel
from blockformer.generation.trained_folder import find_checkpoint, stored_tokenizer
from blockformer.huggingface.config import Config
from blockformer.huggingface.errors import HuggingFaceError
from blockformer.huggingface.export_config import config_of, family_for
from blockformer.huggingface.family import Family
from blockformer.huggingface.family_file import builtin_families
from blockformer.huggingface.folder import (
    SHARD_SIZE,
    copy_tokenizer,
    has_file,
    main_dtype,
    output_folder,
    read_unused,
    write_json,
    write_tensor_files,
)
from blockformer.huggingface.importer import ImportedModel
from blockformer.huggingface.template import TemplateContext
from blockformer.huggingface.tensor_conversion import constants_from_parameters, tensors_from_parameters
from blockformer.huggingface.tensor_rules import constant_tensors, tensor_rules
from blockformer.training.run_folder import CHECKPOINTS, folder_of
from blocks.models.base import Model
from registry import Recipe, load_recipe

_GENERATION_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id")


@dataclass(frozen=True)
class ExportSource:
    """A model to export.

    Attributes:
        name: of the run, the checkpoint or the folder.
        recipe: of the model.
        model: with its weights.
        tokens: ids of special tokens, and names of classes, by their key in the config.
        family: name of the built-in family with which the model was imported, if it was.
        text_model: the model with its tokenizer, if it was trained with one.
        folder: the folder that the model was imported to, which may contain a tokenizer.
        merged: number of adapters that were folded into the weights; the recipe is that without them.
        dropped: number of extra predictions that were left out; the recipe is that without them.
        unused: tensors of the imported folder that the model does not use; an export as ``family`` writes them again.
    """

    name: str
    recipe: Recipe
    model: Model
    tokens: Mapping[str, Any] = field(default_factory=dict)
    family: str | None = None
    text_model: TextModel | None = None
    folder: Path | None = None
    merged: int = 0
    dropped: int = 0
    unused: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def write_tokenizer(self, folder: Path) -> Callable[[], int] | None:
        """Write the tokenizer.

        Returns:
            A function that compares it with the original and returns the number of texts; None: there is no tokenizer.
        """
        if (text_model := self.text_model) is not None:
            hub_tokenizer.write(text_model.tokenizer, text_model.kind, self.model.max_length, folder)
            if isinstance(text_model.tokenizer, FileTokenizer):
                return lambda: hub_tokenizer.verify_copy(folder)
            return lambda: hub_tokenizer.verify(folder, text_model.encode)
        if self.folder is None or not has_file(self.folder, hub_tokenizer.TOKENS):
            return None
        copy_tokenizer(self.folder, folder)
        if not (folder / hub_tokenizer.SETTINGS).is_file():
            hub_tokenizer.write_settings(folder, hub_tokenizer.special_names(folder, dict(self.tokens)))
        return lambda: hub_tokenizer.verify_copy(folder)


def read_source(path: Path, dtype: torch.dtype | None = None) -> ExportSource:
    """Read the model to export, and fold its adapters into its weights.

    Args:
        path: an imported folder, a checkpoint, or a run's folder (its best checkpoint, else its last).
        dtype: of the parameters; None: as they are stored.

    Raises:
        ValueError: there is no model, or it is damaged; the message is one line and names the file.
    """
    has_model = any((path / name).is_file() for name in (RECIPE, WEIGHTS, "config.json"))
    if has_model and not (path / CHECKPOINTS).is_dir():
        return _read_imported(path, dtype)
    file = find_checkpoint(path)
    metadata = read_metadata(file)
    recipe, model = load_with_recipe(file, dtype=dtype)
    run = folder_of(file)
    name = file.stem if run is None else run.resolve().name
    if run is not None and (run / RECIPE).is_file() and (written := load_recipe(run / RECIPE)).hash == recipe.hash:
        recipe = written  # the same recipe, with line numbers for messages
    merged, dropped = len(merge(model)), drop_extra_predictions(model)
    recipe = without_extra_predictions(without_adapters(recipe))
    if metadata.get("tokenizer") is None:
        return ExportSource(name, recipe, model, merged=merged, dropped=dropped)
    bidirectional = bool(metadata.get("bidirectional_prompt"))
    text_model = TextModel(model, stored_tokenizer(file, metadata), bidirectional_prompt=bidirectional)
    ours = text_model.tokenizer
    tokens: dict[str, Any] = {"pad_token_id": ours.pad, "bos_token_id": ours.bos, "eos_token_id": ours.eos}
    if model.kind == "encoder_decoder":
        tokens["decoder_start_token_id"] = ours.bos
    if classes := (metadata.get("data") or {}).get("classes"):
        tokens["id2label"] = {str(number): name for number, name in enumerate(classes)}
        tokens["label2id"] = {name: number for number, name in enumerate(classes)}
    return ExportSource(name, recipe, model, tokens, text_model=text_model, merged=merged, dropped=dropped)


def _read_imported(path: Path, dtype: torch.dtype | None) -> ExportSource:
    recipe, model = load_with_recipe(path, dtype=dtype)
    metadata = imported_metadata(path)
    family, tokens = metadata.get("family"), json.loads(metadata.get("tokens", "{}"))
    known = family if family in builtin_families() else None
    unused = read_unused(path, dtype) if known else {}
    return ExportSource(path.resolve().name, recipe, model, tokens, known, folder=path, unused=unused)


def export_folder(
    recipe: Recipe,
    parameters: Mapping[str, Tensor],
    out: str | Path,
    family: Family | None = None,
    tokens: Mapping[str, Any] | None = None,
    unused: Mapping[str, Tensor] | None = None,
) -> Path:
    """Create a folder that transformers loads; for the arguments see :func:`write_export`.

    Raises:
        HuggingFaceError: no family supports the recipe, or ``out`` exists or cannot be written.
    """
    with output_folder(out) as draft:
        write_export(recipe, parameters, draft, family, tokens, unused=unused)
    return Path(out)


def write_export(
    recipe: Recipe,
    parameters: Mapping[str, Tensor],
    folder: Path,
    family: Family | None = None,
    tokens: Mapping[str, Any] | None = None,
    shard_size: str = SHARD_SIZE,
    unused: Mapping[str, Tensor] | None = None,
) -> ImportedModel:
    """Write config.json, generation_config.json and the tensors.

    Args:
        recipe: the model.
        parameters: its parameters, by name.
        folder: an existing folder.
        family: the family to export as; None: the nearest that supports the recipe.
        tokens: ids of special tokens, such as ``bos_token_id``.
        shard_size: the largest size of one file, such as ``5GB``; a larger model is written as shards with an index.
        unused: further tensors, of the folder that the model was imported from.

    Returns:
        What an import of the folder has to give, for verification.

    Raises:
        HuggingFaceError: no family supports the recipe with these tokens.
    """
    given = {key: value for key, value in (tokens or {}).items() if value is not None}
    chosen, config = family_for(recipe) if family is None else (family, config_of(recipe, family))
    for key, value in given.items():
        if config.get(key) not in (None, value):
            message = f"{chosen.name} requires {key} {config[key]}, but the tokenizer has {value}"
            raise HuggingFaceError.at(recipe.name, message)
    config |= given | {"torch_dtype": main_dtype(parameters)}
    context = TemplateContext(chosen, Config(config), {"tensors": frozenset[str]()})
    try:
        tensors = dict(unused or {}) | tensors_from_parameters(tensor_rules(context), parameters)
        tensors |= constants_from_parameters(constant_tensors(context), parameters)
    except ValueError as error:
        raise HuggingFaceError.at(chosen.path, str(error)) from None
    write_json(folder / "config.json", config)
    write_generation_config(folder, recipe, given)
    write_tensor_files(folder, tensors, shard_size)
    return ImportedModel(folder, chosen, recipe, parameters, given)


def write_generation_config(folder: Path, recipe: Recipe, tokens: Mapping[str, Any]) -> None:
    """Write the special tokens that ``generate`` of transformers uses, for a model that generates text."""
    known = {key: tokens[key] for key in _GENERATION_KEYS if key in tokens}
    if known and recipe.dump()["type"] != "encoder_only":
        write_json(folder / "generation_config.json", known)
