"""What is explained: a model with its recipe, and the tokenizer of its texts."""

import os.path
from dataclasses import dataclass
from pathlib import Path

import torch

from blockformer.assembly.builder import build
from blockformer.assembly.loading import load_with_metadata, load_with_recipe, stored_recipe
from blockformer.data.tokenizer import Tokenizer
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.errors import UserError
from blockformer.generation.text_model import TextModel
from blockformer.generation.trained_folder import find_checkpoint, imported_tokenizer, is_imported, stored_tokenizer
from blocks.models.base import Model
from registry import Recipe, builtin_recipes, load_recipe, spec_of
from registry.strict_yaml import Map

YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class Subject:
    """A model that can be explained.

    Attributes:
        name: for people.
        model: in any mode; it is explained in evaluation mode.
        tokenizer: of its texts.
        recipe: of the model; None: it was made otherwise.
        trained: whether it has weights of a file; else its initial values.
        own_tokenizer: whether it was trained with the tokenizer; else each byte is a token.
        bidirectional_prompt: the tokens of a text depend on each other in both directions.
    """

    name: str
    model: Model
    tokenizer: Tokenizer
    recipe: Recipe | None = None
    trained: bool = True
    own_tokenizer: bool = True
    bidirectional_prompt: bool = False


def subject_of(source: str | Path | Model | TextModel, tokenizer: Tokenizer | None = None, *, seed: int = 0) -> Subject:
    """Load what is to be explained.

    Args:
        source: a run, a checkpoint or an imported folder, with its weights; a recipe's file or the name of a built-in
            one, with initial values; or a model.
        tokenizer: of the texts; None: the one that is stored, else one token for each byte.
        seed: of the initial values of a recipe.

    Raises:
        UserError: it cannot be loaded, or its texts cannot be read.
        RecipeError: the recipe is wrong or does not exist.
    """
    if isinstance(source, TextModel):
        return Subject(source.model.kind, source.model, tokenizer or source.tokenizer, _recipe_of(source.model))
    if isinstance(source, Model):
        own = tokenizer is not None
        found = tokenizer or _bytes(source, source.kind)
        return Subject(source.kind, source, found, _recipe_of(source), own_tokenizer=own)
    path = Path(source)
    if str(source) in builtin_recipes() or path.suffix in YAML or not os.path.exists(source):  # noqa: PTH110
        return _untrained(str(source), tokenizer, seed)
    if is_imported(path):
        recipe, model = load_with_recipe(path, dtype=torch.float32)
        return Subject(path.resolve().name, model.eval(), tokenizer or imported_tokenizer(path), recipe)
    file = find_checkpoint(path)
    model, metadata = load_with_metadata(file)
    return Subject(
        path.resolve().name,
        model,
        tokenizer or stored_tokenizer(file, metadata),
        stored_recipe(file, metadata),
        bidirectional_prompt=bool(metadata.get("bidirectional_prompt")),
    )


def _untrained(source: str, tokenizer: Tokenizer | None, seed: int) -> Subject:
    recipe = load_recipe(source)
    model = build(recipe, seed=seed).eval()
    found = tokenizer or _bytes(model, recipe.name)
    return Subject(recipe.name, model, found, recipe, trained=False, own_tokenizer=tokenizer is not None)


def _bytes(model: Model, name: str) -> Tokenizer:
    """One token for each byte.

    Raises:
        UserError: the model has fewer token ids.
    """
    found = ByteTokenizer()
    if model.vocab_size < found.vocab_size:
        raise UserError(
            f"{name}: without a tokenizer each byte of the text is a token, which takes {found.vocab_size} ids, but "
            f"vocab_size is {model.vocab_size}; raise it, or explain a trained model"
        )
    return found


def _recipe_of(model: Model) -> Recipe | None:
    spec = spec_of(model)
    return None if spec is None else Recipe(model.kind, spec, Map())
