"""`--decay-from`: continue a run of constant learning rate (a trunk) in a run of its own, in which the rate falls."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blockformer.assembly.checkpoint import read_metadata
from blockformer.errors import UserError
from blockformer.training.given import Given
from blockformer.training.optimizers import OptimizerSettings
from blockformer.training.run_folder import CHECKPOINTS, LAST, folder_of
from blockformer.training.stored_settings import safe_settings

DECIDED = ("trainer.max_steps", "trainer.max_epochs", "optimizer.schedule", "optimizer.warmup_steps", "ckpt_path")
"""Settings that follow from the trunk and `optimizer.cooldown_steps`."""


def take_trunk(given: Given, verb: str) -> str | None:
    """Take the settings that follow from the trunk of `--decay-from`, if there is one.

    Args:
        given: what the user gave; the settings are added.
        verb: fit, validate, test or predict.

    Returns:
        The trunk's path; None: there is none.

    Raises:
        UserError: another option contradicts it, or it is no trunk.
    """
    configured = [config.pop("decay_from", None) for config in given.configs]
    source = next((path for path in (given.decay_from, *reversed(configured)) if path is not None), None)
    if source is None or (given.decay_from is None and given.value("ckpt_path") is not None):
        return None
    if verb != "fit" or given.init_from is not None:
        raise UserError(f"--decay-from is for fit{' and cannot be combined with --init-from' if verb == 'fit' else ''}")
    if not isinstance(source, str) or not source.strip():
        raise UserError(f"--decay-from takes the path of a checkpoint, not {source!r}")
    for name in DECIDED:
        if given.decay_from is not None and given.value(name) is not None:
            raise UserError(f"--{name} cannot be set with --decay-from, which sets it")
    for name, value in settings_of_fork(source, given.value("optimizer.cooldown_steps")).items():
        if name == "run.name" and given.value(name) is not None:
            continue
        group, _, key = name.rpartition(".")
        (given.settings.setdefault(group, {}) if group else given.settings)[key] = value
        if given.options is not None and name != "ckpt_path":
            given.options.append(f"--{name}={value}")
    return source


def settings_of_fork(source: str, cooldown: Any) -> dict[str, Any]:
    """The settings, by their names, of the run that continues a trunk.

    Args:
        source: the trunk's checkpoint, or its folder, of which the newest counts.
        cooldown: steps over which the learning rate falls; None: a quarter of the trunk's.

    Raises:
        UserError: it is no checkpoint, or its learning rate is not at the peak.
    """
    path = Path(source)
    path = path / CHECKPOINTS / f"{LAST}.ckpt" if path.is_dir() else path
    metadata = read_metadata(path)
    step = int(metadata.get("step") or 0)
    _check_trunk(metadata, step, path)
    steps = max(1, step // 4) if cooldown is None else _count(cooldown)
    home = folder_of(path)
    return {
        "ckpt_path": str(path),
        "trainer.max_steps": step + steps,
        "trainer.max_epochs": -1,
        "optimizer.schedule": "wsd",
        "optimizer.cooldown_steps": steps,
        "run.name": f"{path.stem if home is None else home.name}-decay-{step}-{steps}",
    }


def _check_trunk(metadata: Mapping[str, Any], step: int, path: Path) -> None:
    try:
        settings = OptimizerSettings(**(safe_settings(metadata.get("config") or {}).get("optimizer") or {}))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    share = settings.factor(step, metadata.get("total_steps") or 0) if step else 0.0
    if share != 1.0:
        raise UserError(
            f"--decay-from {path}: at its step {step} the learning rate is {share:.0%} of the peak (schedule "
            f"{settings.schedule_name}, {settings.warmup_steps} steps of warm-up): a trunk is trained with "
            "--optimizer.schedule constant or wsd, and its checkpoint is of a step before the rate falls"
        )


def _count(value: Any) -> int:
    try:
        steps = int(value)
        whole = not isinstance(value, float) or value == steps
    except (TypeError, ValueError, OverflowError):
        steps, whole = 0, False
    if steps < 1 or not whole:
        raise UserError(f"--optimizer.cooldown_steps {value}: must be a number of steps above 0")
    return steps
