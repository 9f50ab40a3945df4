"""What is to be exported: a model, with the tokenizer and the tokens that go with it."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tokenizers import Tokenizer as Library

from blockformer.assembly.checkpoint import read_metadata
from blockformer.assembly.loading import RECIPE, WEIGHTS, read
from blockformer.data import hub_tokenizer, tokenizer
from blockformer.generation.text_model import TextModel, find_checkpoint
from blockformer.huggingface.folder import COPIED
from blockformer.huggingface.library import installed
from blockformer.training.run_folder import CHECKPOINTS, folder_of
from blocks.models.base import Model
from registry import Recipe, load_recipe


@dataclass(frozen=True)
class Source:
    """A model to export.

    Attributes:
        name: of the run, the checkpoint or the folder.
        recipe: of the model.
        model: with its weights.
        tokens: ids of special tokens, by the config's key.
        family: the installed family that the model was imported by.
        text: the model with the tokenizer that it was trained with.
        folder: where the model was imported to, with its tokenizer if it has one.
    """

    name: str
    recipe: Recipe
    model: Model
    tokens: Mapping[str, Any] = field(default_factory=dict)
    family: str | None = None
    text: TextModel | None = None
    folder: Path | None = None

    def write_tokenizer(self, folder: Path) -> Callable[[str], Sequence[int]] | None:
        """Write the tokenizer if there is one; what it returns encodes a text as the original does."""
        if self.text is not None:
            hub_tokenizer.write(self.text.tokenizer, self.model.kind, self.model.max_length, folder)
            return self.text.encode
        if self.folder is None or not (self.folder / hub_tokenizer.TOKENS).is_file():
            return None
        for name in COPIED:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, folder / name)
        if not (folder / hub_tokenizer.SETTINGS).is_file():
            hub_tokenizer.write_settings(folder, hub_tokenizer.special_names(folder, dict(self.tokens)))
        library = Library.from_file(str(folder / hub_tokenizer.TOKENS))
        return lambda text: library.encode(text).ids


def read_source(path: Path, dtype: torch.dtype | None = None) -> Source:
    """Read an imported folder, a checkpoint, or the best or else the last checkpoint of a run.

    Args:
        path: where it lies.
        dtype: of the parameters; None: as they are stored.

    Raises:
        ValueError: there is none, or it is damaged; the message is one line and names the file.
    """
    kept = any((path / name).is_file() for name in (RECIPE, WEIGHTS, "config.json"))
    if kept and not (path / CHECKPOINTS).is_dir():
        return _imported(path, dtype)
    file = find_checkpoint(path)
    held = read_metadata(file)["tokenizer"]
    recipe, model = read(file, dtype=dtype)
    run = folder_of(file)
    name = file.stem if run is None else run.resolve().name
    if run is not None and (run / RECIPE).is_file() and (written := load_recipe(run / RECIPE)).hash == recipe.hash:
        recipe = written  # the same, and it knows its lines
    if held is None:
        return Source(name, recipe, model)
    text = TextModel(model, tokenizer.load(held))
    ours = text.tokenizer
    tokens = {"pad_token_id": ours.pad, "bos_token_id": ours.bos, "eos_token_id": ours.eos}
    if model.kind == "encoder_decoder":
        tokens["decoder_start_token_id"] = ours.bos
    return Source(name, recipe, model, tokens, text=text)


def _imported(path: Path, dtype: torch.dtype | None) -> Source:
    recipe, model = read(path, dtype=dtype)
    with safe_open(path / WEIGHTS, framework="pt") as file:
        about = file.metadata() or {}
    family = about.get("family")
    tokens = json.loads(about.get("tokens", "{}"))
    return Source(path.resolve().name, recipe, model, tokens, family if family in installed() else None, folder=path)
