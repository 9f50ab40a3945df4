"""The default loggers and callbacks of a run, in the order in which they act."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler

from blockformer.errors import UserError
from blockformer.training import callbacks as own
from blockformer.training.evaluations import Better, Planned, better_of
from blockformer.training.kept_checkpoints import KeptCheckpoints
from blockformer.training.loggers import FileLogger, SafeWandbLogger
from blockformer.training.run_folder import CHECKPOINTS, MONITORS, RunSettings
from blockformer.training.score import BETTER


def loggers_of(run: RunSettings, folder: Path, further: Any) -> list[Any]:
    """The run's own files, W&B, and what the user adds with `trainer.logger`; `false` there leaves W&B out.

    Args:
        run: what the user said about the run.
        folder: where it lives.
        further: `trainer.logger` as it was parsed.
    """
    mode = "disabled" if further is False else run.wandb
    about = {key: getattr(run, key) for key in ("project", "group", "job_type")}
    weights_and_biases = SafeWandbLogger(folder, mode, tags=tuple(run.tags), name=folder.name, **about)
    return [FileLogger(folder), weights_and_biases, *([] if isinstance(further, bool) else listed(further))]


def callbacks_of(
    run: RunSettings,
    folder: Path,
    seed: int,
    ema: float | None,
    trainer: dict[str, Any],
    evaluations: Mapping[str, Planned],
) -> list[Any]:
    """The callbacks of `fit`.

    The guard against broken runs comes first; figures are taken before they are shown; saving comes last.

    Args:
        run: what the user said about the run.
        folder: where it lives.
        seed: the run's.
        ema: decay of the running mean of the weights; None: there is none.
        trainer: the trainer's settings; saving and progress can be switched off there.
        evaluations: by label.
    """
    guard, checkpoints = own.NonFiniteGuard(run.skip_non_finite), None
    spikes = [own.Spikes(run.spike_threshold)] if run.spike_threshold else []
    if trainer["enable_checkpointing"] is not False:
        place, better = folder / CHECKPOINTS, better_of_monitor(run.monitor, evaluations)
        kept = KeptCheckpoints(place, run.keep_last, run.keep_best, run.monitor, better)
        checkpoints = own.Checkpoints(place, run.save_every, run.monitor, kept, guard, run.checkpoint)
    marks = [*(one.marks for one in spikes), *([] if checkpoints is None else [checkpoints.figures])]
    meter = own.MetricsLogger(run.about, *marks)
    shows = [own.RunProgress(meter)] if trainer["enable_progress_bar"] is not False else []
    saves = [checkpoints] if checkpoints is not None else []
    means = [own.WeightAverage(ema)] if ema is not None else []
    before, after = [guard, own.RandomState(seed), *means, *spikes], [*saves, own.StopOnSignal(checkpoints)]
    before += [own.Evaluations(evaluations, folder)] if evaluations else []
    return [*before, meter, *_watches(run, folder, meter), *shows, *after]


def better_of_monitor(monitor: str, evaluations: Mapping[str, Planned]) -> Better:
    """Which values of the figure that decides about `best.ckpt` are better.

    Raises:
        UserError: no evaluation of the run has it.
    """
    if monitor in MONITORS:
        return BETTER[monitor.removeprefix("val/")]
    try:
        return better_of(monitor, evaluations)
    except UserError as error:
        raise UserError(f"run.monitor {error}") from None


def _watches(run: RunSettings, folder: Path, meter: own.MetricsLogger) -> Iterator[Any]:
    """What is measured at intervals, as far as it is asked for."""
    if run.watch_every:
        yield own.LayerFigures(run.watch_every, meter)
    if run.attention_every:
        yield own.AttentionMaps(run.attention_every, folder, meter)
    if run.profile:
        yield own.StepTrace(run.profile, folder)


def profiler_of(wanted: Any, folder: Path) -> Any:
    """A profiler of Lightning by its name, whose report is a file in the run's folder; anything else stays as it is."""
    kinds = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
    return kinds[wanted](dirpath=str(folder), filename="profile") if wanted in kinds else wanted


def listed(value: Any) -> list[Any]:
    """None, one thing or several, as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
