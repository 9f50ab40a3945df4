"""The trained model of `--init-from`, whose weights a new run starts from."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from blockformer.assembly.checkpoint import LoadError, checkpoint_in, read_metadata
from blockformer.assembly.loading import (
    RECIPE,
    load_with_metadata,
    load_with_recipe,
    recipe_and_weights,
    stored_recipe,
)
from blockformer.data.tokenizer import Tokenizer
from blockformer.errors import UserError
from blocks.models.base import Model
from registry import Recipe, RecipeError


def check_source(source: Path) -> None:
    """Check early that :func:`read_source` can read this.

    Raises:
        UserError: there is no model, or it is damaged or not of this project.
    """
    path = _checkpoint_or_folder(source)
    try:
        if path.is_dir():
            recipe_and_weights(path)
        else:
            read_metadata(path)
    except LoadError as error:
        raise UserError(str(error)) from error


def recipe_in(source: Path) -> tuple[Path | Mapping[str, Any], str]:
    """The recipe of a trained model, for a run that is given no other, and what to call it.

    Args:
        source: as for :func:`read_source`, checked by :func:`check_source`.
    """
    path = _checkpoint_or_folder(source)
    if path.is_dir():
        return path / RECIPE, path.resolve().name
    metadata = read_metadata(path)
    return metadata["recipe"], metadata.get("variant") or metadata["recipe"]["type"]


def read_source(source: Path) -> tuple[Model, Recipe, dict[str, Any]]:
    """A trained model, its recipe, and the metadata of its checkpoint; an imported folder has none.

    Args:
        source: an imported folder, a checkpoint, or a run's folder: its best checkpoint, or else its last.

    Raises:
        UserError: it cannot be read, or its recipe is not valid in this version.
    """
    path = _checkpoint_or_folder(source)
    try:
        if path.is_dir():
            recipe, model = load_with_recipe(path)
            return model, recipe, {}
        model, metadata = load_with_metadata(path)
        return model, stored_recipe(path, metadata), metadata
    except LoadError as error:
        raise UserError(str(error)) from error
    except RecipeError as error:
        raise UserError(f"{source}: its recipe is not valid in this installation: {error.problems[0]}") from error


def _checkpoint_or_folder(source: Path) -> Path:
    try:
        return (checkpoint_in(source) or source) if source.is_dir() else source
    except OSError as error:
        raise UserError(f"--init-from {str(source)[:200]}: cannot be read: {error.strerror or error}") from None


def matching_tokens(
    new: Tokenizer, extra: Mapping[str, int], old: Tokenizer | None, extra_before: Mapping[str, int]
) -> list[int]:
    """For each token id of a run the id in the model that it begins with of the same token; -1: it had none.

    Args:
        new: the run's tokenizer.
        extra: the ids of the tokens of the run's objective, by name.
        old: the tokenizer of the trained model; None: the same one, or it is not known.
        extra_before: the ids of the tokens of the objective that it was trained with.
    """
    ids = list(range(new.vocab_size)) if old is None or old.encodes_as(new) else matching_ids(new, old)
    ids += [-1] * (max(extra.values(), default=-1) + 1 - len(ids))
    for name, token in extra.items():
        own = (new if old is None else old).special_token(name)
        ids[token] = extra_before.get(name, -1 if own is None else own)
    return ids


def matching_ids(new: Tokenizer, old: Tokenizer) -> list[int]:
    """For each token id of ``new`` the id in ``old`` of the token that stands for the same; -1 where there is none.

    Tokens match by their bytes, or by their names where one tokenizer has tokens without bytes of their own; special
    tokens match by what they are for.
    """
    alike = (old.pieces, new.pieces) if old.pieces and new.pieces else (old.names, new.names)
    known = {piece: token for token, piece in enumerate(alike[0]) if piece and old.is_ordinary[token]}
    there = asdict(old.special)
    special = {one: there[role] for role, one in asdict(new.special).items() if None not in (one, there[role])}
    return [special.get(token, known.get(piece, -1)) for token, piece in enumerate(alike[1])]
