"""The metadata of a checkpoint: what is needed to rebuild its model and to use it, as plain data."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from blockformer.assembly.checkpoint import FORMAT, LoadError
from blockformer.errors import UserError
from registry import Recipe, RecipeError, load_recipe
from registry.merge import flat
from registry.text import shortened


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
        "bidirectional_prompt": run.objective.bidirectional_prompt,
        "objective_facts": dict(run.objective.facts()),
        "step": trainer.global_step,
        "epoch": trainer.current_epoch,
        "tokens": int(run.tokens_seen.item()),
        "total_steps": run.total_steps,
        "evaluation": dict(run.evaluation),
        "validated_step": run.validated_step,
        "finished": _is_finished(run),
        "tokenizer": tokenizer.dump() if tokenizer is not None else None,
        "extra_tokens": dict(getattr(data, "extra_tokens", {})),
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
        raise LoadError(f"the checkpoint's recipe is not valid in this installation: {error.problems[0]}") from error
    if saved.hash == recipe.hash:
        return
    there, here = flat(saved.dump()), flat(recipe.dump())
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    named = [
        f"{key} is {there.get(key, 'not set')} in the checkpoint and {here.get(key, 'not set')} in this run"
        for key in keys[:3]
    ]
    more = f", and {len(keys) - 3} more" if len(keys) > 3 else ""
    raise LoadError(f"the checkpoint has another model: {'; '.join(named)}{more}")


def verify_same_facts(metadata: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Refuse to continue a run whose objective reads other files than before.

    Args:
        metadata: the checkpoint's.
        facts: of the run's objective: by option, what has been read, with its `path` and `sha256`.

    Raises:
        LoadError: a file differs.
    """
    for option, here in facts.items():
        there = (metadata.get("objective_facts") or {}).get(option)
        if there is not None and there.get("sha256") != here["sha256"]:
            raise LoadError(
                f"objective.{option} {here['path']} has changed: the checkpoint was trained with sha256 "
                f"{str(there.get('sha256'))[:16]} ({there.get('path')}), and this is {here['sha256'][:16]}: restore "
                "it, or start a new run with --init-from"
            )


def check_steps_left(metadata: Mapping[str, Any], total: int, where: Path, *, elsewhere: bool) -> None:
    """Refuse to continue a run that has made more steps than it is to have.

    Args:
        metadata: the checkpoint's.
        total: steps that the run is to have; 0: not limited by their number.
        where: the checkpoint.
        elsewhere: whether the run continues in another folder, where one step must be left.

    Raises:
        UserError: nothing is left to do.
    """
    step = metadata.get("step") or 0
    if total and (step > total or (elsewhere and step == total)):
        raise UserError(
            f"nothing to do: {where} is of step {step}, and the run has {total} steps: "
            "raise --trainer.max_steps or --trainer.max_epochs"
        )


def earlier_data(
    metadata: Mapping[str, Any], facts: Mapping[str, Any], where: Path, *, other: bool
) -> list[dict[str, Any]]:
    """The data that a run was trained on before those that it continues with, each with its hash and last step.

    Args:
        metadata: the checkpoint's.
        facts: of the data that the run continues with.
        where: the checkpoint.
        other: whether the user allows other data.

    Raises:
        UserError: the data have changed, and that is not allowed.
    """
    earlier = list(metadata.get("earlier_data") or [])
    before: Mapping[str, Any] = metadata.get("data") or {}
    there, here = before.get("sha256"), facts.get("sha256")
    if there is None or here is None or there == here:
        return earlier
    if not other:
        raise UserError(
            f"{where} was trained on other data: sha256 {str(there)[:16]} ({_origin(before)}) in the checkpoint and "
            f"{here[:16]} ({_origin(facts)}) now: restore the data, or continue with --run.other_data true"
        )
    known = {key: before[key] for key in ("dataset", "files", "sha256") if key in before}
    return [*earlier, known | {"last_step": metadata.get("step")}]


def _origin(facts: Mapping[str, Any]) -> str:
    """Where data come from, for a message: the dataset and its files."""
    splits = facts.get("files")
    files = [str(name) for names in splits.values() for name in names] if isinstance(splits, Mapping) else []
    shown = [*files[:3], *(["..."] if len(files) > 3 else [])]
    return shortened(f"{facts.get('dataset')}{': ' if shown else ''}{', '.join(shown)}")
