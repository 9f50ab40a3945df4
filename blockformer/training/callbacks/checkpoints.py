"""Write the checkpoints of a run."""

import contextlib
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from blockformer.assembly.checkpoint import read_training_state
from blockformer.errors import UserError
from blockformer.files import remove_drafts, write_atomically
from blockformer.training.callbacks.non_finite import NonFiniteError, NonFiniteGuard
from blockformer.training.callbacks.step_callback import StepCallback, is_dry_run
from blockformer.training.evaluations import FIGURE
from blockformer.training.kept_checkpoints import KeptCheckpoints, remove_unused_parts
from blockformer.training.module import TrainingModule
from blockformer.training.parallel.parts_writer import PartsWriter
from blockformer.training.parallel.strategy import ShardedStrategy

LAST, BEST = "last.ckpt", "best.ckpt"
_BEFORE = f".{LAST}.before.tmp"  # the version before `last.ckpt`, until the next step or validation shows that it works


class Checkpoints(StepCallback, Checkpoint):
    """Writes `last.ckpt` at an interval and at the end, and `best.ckpt` after each validation that is the best so far.

    A figure that is infinite or NaN is never the best, and a run that diverged is not saved: where the next step or
    validation shows that the weights of `last.ckpt` are of no use, the version before it comes back.

    Args:
        folder: where both files are written.
        every: optimizer steps between two versions of `last.ckpt`; 0: only at the end.
        monitor: the figure that decides which validation is the best; one of an evaluation decides among those that
            have it.
        kept: what else stays in the folder, and which values of the figure are better.
        guard: checked before each checkpoint.
        form: `file`, of the first process; `sharded`, of all processes while training goes on; `auto`: sharded where
            no process has the whole model.

    Attributes:
        paused: seconds for which training has waited for each checkpoint.
    """

    def __init__(
        self, folder: Path, every: int, monitor: str, kept: KeptCheckpoints, guard: NonFiniteGuard, form: str = "auto"
    ) -> None:
        self.folder, self.every, self.monitor, self.guard, self.form = folder, every, monitor, guard, form
        self.kept = kept
        self.best: float | None = None
        self.paused: list[float] = []
        self._reported = 0  # of the pauses, how many a row of metrics has had
        self._saved = -1  # the step of `last.ckpt` in this folder
        self._writer: PartsWriter | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        strategy = trainer.strategy
        divided = isinstance(strategy, ShardedStrategy) and trainer.world_size > 1
        if self.form == "sharded" or (self.form == "auto" and divided):
            self._writer = PartsWriter(self.kept.after_write)

    def figures(self) -> dict[str, float]:
        """Seconds for which training has waited for checkpoints since the last call; nothing if for none."""
        new, self._reported = self.paused[self._reported :], len(self.paused)
        return {"checkpoint_seconds": sum(new)} if new else {}

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "monitor": self.monitor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"] if state_dict["monitor"] == self.monitor else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            remove_drafts(self.folder)
            remove_unused_parts(self.folder)
        last = (self.folder / LAST).absolute()
        continues = trainer.ckpt_path is not None and Path(trainer.ckpt_path).absolute() == last
        self._saved = trainer.global_step if continues else -1
        if not trainer.strategy.broadcast((self.folder / BEST).exists()):
            self.best = None  # the best one lies in the folder of another run
        self.kept.ranked = trainer.strategy.broadcast(self.kept.ranked_files())

    def after_step(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        assert isinstance(module, TrainingModule)
        if step == module.total_steps or (self.every and step % self.every == 0):
            self.save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking or is_dry_run(trainer):
            return
        value = self._monitored(getattr(pl_module, "evaluation", {}))
        if value is not None and math.isfinite(value):
            among, best = self.kept.enter(value, trainer.global_step), self._is_best(value)
            if among or best:
                self.guard.check()
                self.best = value if best else self.best
                self._write(trainer, self.folder / BEST if best else self.kept.best_path(trainer.global_step))
        if self._saved == trainer.global_step:
            self.save_last(trainer)  # again, with this validation, so that a continued run does not repeat it

    def _is_best(self, value: float) -> bool:
        return self.best is None or (value != self.best and self.kept.better(value, self.best) == value)

    def _monitored(self, figures: Mapping[str, float]) -> float | None:
        """The value that decides; None: it is of an evaluation that does not belong to this validation."""
        if self.monitor in figures:
            return figures[self.monitor]
        of_evaluation = FIGURE.fullmatch(self.monitor)
        if of_evaluation is not None and not any(name.startswith(f"eval/{of_evaluation[1]}/") for name in figures):
            return None
        raise UserError(f"run.monitor {self.monitor} is not one of the figures {', '.join(sorted(figures))}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write `last.ckpt`, and wait until all is written."""
        if self._saved != trainer.global_step:
            self.save_last(trainer)
        if self._writer is not None:
            self._writer.wait(trainer)

    def save_last(self, trainer: Trainer) -> None:
        """Write `last.ckpt`; every rank must call this.

        Raises:
            NonFiniteError: the run has diverged.
            OSError: the file cannot be written; the previous one stays.
        """
        if is_dry_run(trainer):
            return
        since = time.perf_counter()
        self.guard.check()
        if self._saved not in (-1, trainer.global_step):
            if self._writer is not None:
                self._writer.wait(trainer)
            if trainer.is_global_zero:
                self._keep()
        for logger in trainer.loggers:
            logger.save()
        self._write(trainer, self.folder / LAST, since)
        self._saved = trainer.global_step

    def _write(self, trainer: Trainer, path: Path, since: float | None = None) -> None:
        """Write a checkpoint, or begin to; training has waited for it `since` then, or from now on."""
        since = time.perf_counter() if since is None else since
        if self._writer is not None:
            self._writer.save(trainer, path)
        else:
            trainer.save_checkpoint(path)
            if trainer.is_global_zero:
                self.kept.after_write(path, trainer.global_step)
        self.paused.append(time.perf_counter() - since)

    def _keep(self) -> None:
        """Keep the present `last.ckpt` as another name of the same file, where the file system has such."""
        (self.folder / _BEFORE).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            os.link(self.folder / LAST, self.folder / _BEFORE)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Bring back the version before a broken one."""
        self._close()
        if isinstance(exception, NonFiniteError) and exception.broken <= self._saved and trainer.is_global_zero:
            self.kept.drop_from(exception.broken)
            if (self.folder / _BEFORE).is_file():
                (self.folder / _BEFORE).replace(self.folder / LAST)
        self._drop(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._drop(trainer)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _drop(self, trainer: Trainer) -> None:
        self._close()
        if trainer.is_global_zero:
            remove_drafts(self.folder)
            remove_unused_parts(self.folder)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file beside the target, syncs it to disk, then renames it.

    Lightning's own writer stages in the system's temporary folder: on another file system its last move is a copy,
    which readers can see half done. It also holds the whole file in memory a second time.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        write_atomically(Path(path), lambda stream: torch.save(checkpoint, stream))

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read tensors and plain data only, whatever ``weights_only`` is.

        Raises:
            LoadError: the file is missing, damaged, or not of this project.
        """
        return read_training_state(path)
