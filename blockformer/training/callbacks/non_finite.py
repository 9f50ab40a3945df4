"""Stop a run that is broken before its state is saved: an infinite or NaN loss, gradient or weight, or no gradient."""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from blockformer.data.samples import Batch
from blockformer.files import write_text
from blockformer.training.callbacks.step_callback import StepCallback, is_sync_step
from blockformer.training.loggers.file_logger import FileLogger
from blockformer.training.module import TrainingModule
from blockformer.training.parallel.shards import local
from blockformer.training.score import TARGETS
from blockformer.training.watch.diagnosis import first_broken

DIVERGED = "diverged.json"
"""Name of the file, in the folder of a run that diverged, that gives the step and the reason."""
REMEDY = (
    "a lower --optimizer.lr, more --optimizer.warmup_steps or stronger clipping (--trainer.gradient_clip_val, "
    "by default 1) may help"
)
BROKEN = "the loss or its gradient is not finite"
NAMING = "to have the layer named, continue from the checkpoint before it with --trainer.log_every_n_steps 1"
# With a positive loss, not even one step of a working model has a gradient of exactly 0 in the range of float32; the
# others are for models of a user's own.
PATIENCE = 10


class NonFiniteError(RuntimeError):
    """A run is broken; the message is one line and names the step.

    Args:
        message: what is wrong.
        broken: the optimizer step whose weights are the first that cannot be used.
    """

    def __init__(self, message: str, broken: int = 0) -> None:
        super().__init__(f"{message}: {REMEDY}")
        self.broken = broken


class NonFiniteGuard(StepCallback):
    """Raises an error when a loss, gradient, weight or moment is infinite or NaN, or the gradient is 0.

    Where reading the device costs nothing (on a CPU, at reporting steps, and where steps are skipped, which waits for
    each of them), the loss and the gradient are checked before the update, and the layer that broke is found. In other
    steps the flags stay on the device until the next reporting step or checkpoint; by then the weights are broken and
    only the step is known. Validation is checked when it ends, weights and optimizer state before each checkpoint.

    Args:
        skips: steps in a row that are not finite and are skipped, which costs waiting for each step; 0: none.

    Attributes:
        skipped: steps of the run that were skipped.
    """

    def __init__(self, skips: int = 0) -> None:
        self.skips, self.skipped, self._in_a_row = skips, 0, 0
        self._batches: list[Batch] = []  # of the present step
        self._where = ""  # where the skipped step broke
        self._flags: Tensor | None = (
            None  # the first step that was not finite (0: none), steps in a row without gradient
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        assert isinstance(pl_module, TrainingModule)
        pl_module.skips_non_finite = self.skips > 0 and trainer.precision != "16-mixed"  # whose scaler skips them
        pl_module.before_clipping.append(lambda: self._before_update(trainer, pl_module))
        for path in _reasons(trainer):
            path.unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self._in_a_row = state_dict["skipped"], state_dict["in_a_row"]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write why the run diverged into its folder."""
        if isinstance(exception, NonFiniteError):
            for path in _reasons(trainer):
                write_text(path, json.dumps({"step": trainer.global_step, "reason": str(exception)}) + "\n")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batches.append(batch)

    def _before_update(self, trainer: Trainer, module: TrainingModule) -> None:
        """Find where this step broke, if it did, while the weights are still those that broke it.

        Raises:
            NonFiniteError: it did, and is not to be skipped.
        """
        step, batches = trainer.global_step + 1, self._batches
        self._batches = []
        if not module.skips_non_finite and not is_sync_step(trainer, step):
            return
        self.check(patience=sys.maxsize, seen=step)
        if bool(_is_finite(trainer, module)):
            return
        self._where = first_broken(trainer, module, batches)
        if not module.skips_non_finite:
            raise NonFiniteError(f"{BROKEN} since step {step}, {self._where}", step - 1)

    def after_step(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        assert isinstance(module, TrainingModule)
        assert module.window is not None
        if module.skipped:
            self._skip(trainer, step)
            return
        self._in_a_row = 0
        norm, finite = module.gradient_norm, _is_finite(trainer, module)
        dead = torch.zeros_like(finite)
        if norm is not None and trainer.precision not in ("16-mixed", "16-true"):  # there a gradient may underflow
            dead = (norm == 0) & (module.window[TARGETS] > 0) & (module.window[0] > 0)
        none = torch.zeros(2, dtype=torch.long, device=finite.device)
        since, zeros = none if self._flags is None else self._flags
        since = torch.where(finite | (since > 0), since, step)
        self._flags = torch.stack([since, torch.where(dead, zeros + 1, 0)])
        if is_sync_step(trainer, step):
            self.check()

    def _skip(self, trainer: Trainer, step: int) -> None:
        """Count a step that changed nothing.

        Raises:
            NonFiniteError: there were too many in a row.
        """
        self._in_a_row += 1
        if self._in_a_row > self.skips:
            raise NonFiniteError(
                f"{BROKEN} in {self._in_a_row} steps in a row, since step {step - self._in_a_row + 1} "
                f"(--run.skip_non_finite {self.skips}), {self._where}",
                step,
            )
        self.skipped += 1
        if trainer.is_global_zero:
            line = f"note: step {step} is skipped: its loss or gradient is not finite, {self._where}"
            print(line, file=sys.stderr, flush=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the validation loss.

        Raises:
            NonFiniteError: it is infinite or NaN.
        """
        loss = getattr(pl_module, "evaluation", {}).get("val/loss", 0.0)
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not math.isfinite(loss):
            raise NonFiniteError(f"val/loss is {loss} after step {trainer.global_step}", trainer.global_step)

    def check(self, patience: int = PATIENCE, seen: int | None = None) -> None:
        """Read the flags off the device.

        Args:
            patience: steps in a row without a gradient that end the run.
            seen: the step that is being made; None: the last one is over.

        Raises:
            NonFiniteError: the loss or gradient of a step was infinite or NaN, or the gradient is 0.
        """
        since, zeros = (0, 0) if self._flags is None else (int(flag) for flag in self._flags.tolist())
        if since:
            seen = self._step if seen is None else seen
            raise NonFiniteError(f"{BROKEN} since step {since}, seen at step {seen}; {NAMING}", since - 1)
        if zeros >= patience:
            since = self._step - zeros + 1
            raise NonFiniteError(f"the gradient is exactly 0 since step {since}, so nothing is learned", since - 1)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Check the flags, the weights and the optimizer's state; every checkpoint passes here before it is written.

        Raises:
            NonFiniteError: something is infinite or NaN, or the last step had no gradient.
        """
        self.check(patience=1)
        tensors = dict(_saved_tensors(trainer, pl_module))
        broken = 1.0 - _are_finite(list(tensors.values())).float()
        if trainer.world_size > 1:
            broken = trainer.strategy.reduce(broken.to(trainer.strategy.root_device), reduce_op="max")
        if bool(broken):
            name = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), "a part elsewhere")
            raise NonFiniteError(f"{name} is not finite after step {trainer.global_step}", trainer.global_step)


def _reasons(trainer: Trainer) -> list[Path]:
    """The file for the reason in the run's folder, in the first process."""
    folders = [logger.folder for logger in trainer.loggers if isinstance(logger, FileLogger)]
    return [folder / DIVERGED for folder in folders] if trainer.is_global_zero else []


def _is_finite(trainer: Trainer, module: TrainingModule) -> Tensor:
    """Whether the loss and the gradient of this step are finite, of all processes together."""
    assert module.window is not None
    finite = module.window.isfinite().all()
    if module.gradient_norm is None or trainer.precision == "16-mixed":  # whose scaler skips steps that are not finite
        return finite
    return finite & module.gradient_norm.isfinite()


def _are_finite(tensors: list[Tensor]) -> Tensor:
    """Whether all values are finite: by the Euclidean norm, which is fast, and where it overflows by the maximum."""
    finite = torch.nn.utils.get_total_norm(tensors).isfinite()
    return finite if bool(finite) else torch.nn.utils.get_total_norm(tensors, math.inf).isfinite()


def _saved_tensors(trainer: Trainer, module: LightningModule) -> Iterator[tuple[str, Tensor]]:
    """What this process holds of the weights and of the optimizer's state."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    state: list[tuple[str, Any]] = [(name, parameter) for parameter, name in names.items()]
    for optimizer in trainer.optimizers:
        for parameter, held in optimizer.state.items():
            state += [(f"the optimizer's {key} of {names.get(parameter)}", value) for key, value in held.items()]
    for name, value in state:
        if isinstance(value, Tensor) and value.is_floating_point() and (part := local(value.detach())).numel():
            yield name, part
