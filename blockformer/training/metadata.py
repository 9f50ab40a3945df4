"""What a checkpoint says about itself: all that is needed to build its model and to use it, as plain data."""

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from blockformer.assembly.checkpoint import FORMAT, LoadError
from registry import Recipe, RecipeError, load_recipe

if TYPE_CHECKING:
    from blockformer.training.module import TrainingModule


def describe(module: "TrainingModule") -> dict[str, Any]:
    """The metadata of a run at this moment, made of mappings, lists, texts and numbers only."""
    trainer = module.trainer
    data: Any = getattr(trainer, "datamodule", None)
    tokenizer = getattr(data, "tokenizer", None)
    return {
        "format": FORMAT,
        "version": installed_version(),
        "recipe": module.recipe.dump(),
        "recipe_hash": module.recipe.hash,
        "kind": module.model.kind,
        "objective": module.objective.name,
        "label_smoothing": module.objective.label_smoothing,
        "step": trainer.global_step,
        "epoch": trainer.current_epoch,
        "tokens": int(module.tokens_seen.item()),
        "evaluation": dict(module.evaluation),
        "tokenizer": tokenizer.dump() if tokenizer is not None else None,
        "data": data.facts() if hasattr(data, "facts") else {},
        **module.provenance,
    }


def installed_version() -> str:
    """Of this package; `unknown` where it is used without being installed."""
    try:
        return version("blockformer")
    except PackageNotFoundError:
        return "unknown"


def verify_same_model(metadata: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuse to continue another model's run.

    Raises:
        LoadError: the checkpoint's recipe is not this one; the first differences are named.
    """
    try:
        saved = load_recipe(metadata["recipe"])  # parameters that did not exist when it was written get their defaults
    except RecipeError as error:
        raise LoadError(f"the checkpoint's recipe is not valid here: {error.problems[0]}") from error
    if saved.hash == recipe.hash:
        return
    there, here = flat(saved.dump()), flat(recipe.dump())
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    named = [f"{key} is {there.get(key, 'not set')} there and {here.get(key, 'not set')} here" for key in keys[:3]]
    more = f", and {len(keys) - 3} more" if len(keys) > 3 else ""
    raise LoadError(f"the checkpoint holds another model: {'; '.join(named)}{more}")


def flat(tree: Any) -> dict[str, Any]:
    """A nested recipe as dotted keys and scalars."""
    return dict(_leaves(tree, ""))


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    match tree:
        case Mapping() if tree:
            items = tree.items()
        case list() | tuple() if tree:
            items = enumerate(tree)
        case _:
            yield path, tree
            return
    for key, value in items:
        yield from _leaves(value, f"{path}.{key}" if path else str(key))
