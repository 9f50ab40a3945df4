"""The metadata of a checkpoint: what is needed to rebuild its model and to use it, as plain data."""

from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

from blockformer.assembly.checkpoint import FORMAT, LoadError
from registry import Recipe, RecipeError, load_recipe


class Run(Protocol):
    """What is stored of a run; a TrainingModule has it."""

    recipe: Recipe
    model: Any
    objective: Any
    evaluation: dict[str, float]
    validated_step: int
    total_steps: int
    tokens_seen: Any
    provenance: dict[str, Any]

    @property
    def trainer(self) -> Any:
        """Lightning's trainer, with the number of steps and epochs and the data module."""


def run_metadata(run: Run) -> dict[str, Any]:
    """The metadata of a run at this moment: mappings, lists, strings and numbers only."""
    trainer = run.trainer
    data: Any = getattr(trainer, "datamodule", None)
    tokenizer = getattr(data, "tokenizer", None)
    return {
        "format": FORMAT,
        "version": installed_version(),
        "recipe": run.recipe.dump(),
        "recipe_hash": run.recipe.hash,
        "kind": run.model.kind,
        "objective": run.objective.name,
        "label_smoothing": run.objective.label_smoothing,
        "step": trainer.global_step,
        "epoch": trainer.current_epoch,
        "tokens": int(run.tokens_seen.item()),
        "total_steps": run.total_steps,
        "evaluation": dict(run.evaluation),
        "validated_step": run.validated_step,
        "finished": _is_finished(run),
        "tokenizer": tokenizer.dump() if tokenizer is not None else None,
        "data": data.facts() if hasattr(data, "facts") else {},
        **run.provenance,
    }


def _is_finished(run: Run) -> bool:
    """Whether the run has made all its steps, or was asked to stop, and its last validation."""
    trainer = run.trainer
    ended = trainer.should_stop or 0 < run.total_steps <= trainer.global_step
    return bool(ended) and (run.validated_step == trainer.global_step or not trainer.enable_validation)


def installed_version() -> str:
    """The installed version of this package; `unknown` where it is used without being installed."""
    try:
        return version("blockformer")
    except PackageNotFoundError:
        return "unknown"


def verify_same_model(metadata: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuse to continue the run of another model.

    Raises:
        LoadError: the checkpoint's recipe differs from this one; the message names the first differences.
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
    """Flatten nested plain data to dotted keys and scalars."""
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
