"""One row of metrics at each reporting step and after each validation, the same for every logger."""

import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from blockformer.data.module import TextData
from blockformer.training.callbacks.step_callback import StepCallback, is_reporting_step
from blockformer.training.device_peak import compute_dtype, peak_flops
from blockformer.training.loggers.file_logger import FileLogger
from blockformer.training.loggers.run_facts import facts_of
from blockformer.training.module import TrainingModule
from blockformer.training.score import SIZE

Row = dict[str, float]
BACKWARD = 2  # times the operations of a forward pass


class MetricsLogger(StepCallback):
    """Collects the metrics of a run and sends them to the trainer's loggers.

    Rows have `step` (optimizer steps made), `epoch`, `tokens` (read so far on all ranks, without padding) and
    `seconds` (since the start of training, including validation and checkpoints). Training rows add loss, perplexity,
    accuracy and bits per byte of this step, the gradient norm before clipping, the learning rate, tokens per second
    since the last row (excluding validation), the share of the devices' peak operations that these take (model FLOPs
    utilisation, Chowdhery et al. 2022, "PaLM", section 4.1), and peak memory in MiB: of tensors on a GPU, of the
    process on a CPU; those of a mixture have for each source how often it has been read, `train/epochs/NAME`, and the
    mean loss over its targets since the last training row, `train/loss/NAME`.

    Args:
        about: further keys of the configuration that the loggers are given; they replace keys of the same name.
        marks: give further figures of the steps since the last training row.
    """

    def __init__(self, about: Mapping[str, Any] | None = None, *marks: Callable[[], Row]) -> None:
        self.about, self._marks = dict(about or {}), marks
        self.row: Row = {}
        self.validation: Row = {}
        self._seconds = 0.0  # of earlier sessions of this run
        self._since = self._lap = self._paused = time.perf_counter()
        self._lap_tokens = 0.0
        self._peak: float | None = None
        self._of_sources: Tensor | None = None  # sums of loss and targets of each source since the last training row
        self._epoch = 0  # of the last step, also for the rows of its validation, which may follow in the next epoch

    def state_dict(self) -> dict[str, Any]:
        state = {"seconds": self._elapsed(), "epoch": self._epoch}
        return state if self._of_sources is None else state | {"of_sources": self._of_sources.cpu()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seconds, self._epoch = state_dict["seconds"], state_dict["epoch"]
        self._of_sources = state_dict.get("of_sources")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        assert isinstance(pl_module, TrainingModule)
        facts = facts_of(trainer, pl_module) | self.about
        for logger in trainer.loggers:
            logger.log_hyperparams(facts)
            if isinstance(logger, FileLogger):
                logger.rewind(trainer.global_step, validated=pl_module.validated_step == trainer.global_step)
        held, data = self._of_sources, getattr(trainer, "datamodule", None)
        names = data.sources if isinstance(data, TextData) else ()
        if not isinstance(held, Tensor) or held.shape != (2 * len(names),):
            self._of_sources = None  # the run continues on other data
        self._peak = _peak_tokens(trainer, pl_module)
        self._since = self._lap = time.perf_counter()  # the start of the loggers does not count
        self._lap_tokens = pl_module.tokens_seen.item()

    def after_step(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        self._epoch = trainer.current_epoch
        assert isinstance(module, TrainingModule)
        assert module.window is not None
        self._add_sources(module)
        if not is_reporting_step(trainer, step):
            return
        assert module.gradient_norm is not None
        metrics = module.objective.figures(module.window, module.model)
        row = self.head(trainer, module) | {f"train/{name}": value for name, value in metrics.items()}
        group = trainer.optimizers[0].param_groups[0]
        row["learning_rate"] = module.settings.lr * (group["lr"] / group["peak"])
        row["gradient_norm"] = module.gradient_norm.item()
        now = time.perf_counter()
        row["tokens_per_second"] = (row["tokens"] - self._lap_tokens) / max(now - self._lap, 1e-9)
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, TextData):
            epochs = data.source_epochs(trainer.global_step * trainer.accumulate_grad_batches)
            row |= {f"train/epochs/{name}": value for name, value in epochs.items()} | self._losses(data.sources)
        if self._peak is not None:
            row["mfu"] = row["tokens_per_second"] / self._peak
        row["peak_memory_mib"] = peak_memory(module.device) / 2**20
        self._lap, self._lap_tokens = now, row["tokens"]
        for marks in self._marks:
            row |= marks()
        self.row = self._write(trainer, row)

    def _add_sources(self, module: TrainingModule) -> None:
        """Add the sums of this step, which are those of all processes, without reading them off the device."""
        assert module.window is not None
        own = module.window[SIZE + 2 * len(module.objective.own_figures(module.model)) :]
        if not module.skipped and own.numel():
            before = self._of_sources
            self._of_sources = own.clone() if before is None else before.to(own.device, own.dtype) + own

    def _losses(self, sources: Sequence[str]) -> Row:
        """The mean loss of each source since the last training row; none of a source that was not read."""
        if self._of_sources is None:
            return {}
        sums, self._of_sources = self._of_sources.view(-1, 2).tolist(), None
        return {f"train/loss/{name}": loss / count for name, (loss, count) in zip(sources, sums, strict=True) if count}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._lap += time.perf_counter() - self._paused
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            assert isinstance(pl_module, TrainingModule)
            self.validation = self.publish(trainer, pl_module, pl_module.evaluation)

    def publish(self, trainer: Trainer, module: TrainingModule, figures: Row) -> Row:
        """Write a row of other figures, of the step that was made last."""
        return self._write(trainer, self.head(trainer, module) | figures)

    @contextmanager
    def paused(self) -> Generator[None]:
        """What is done meanwhile does not count in the tokens per second."""
        since = time.perf_counter()
        try:
            yield
        finally:
            self._lap += time.perf_counter() - since

    def head(self, trainer: Trainer, module: TrainingModule) -> Row:
        """Where the run is: step, epoch, tokens, seconds."""
        place = {"step": trainer.global_step, "epoch": self._epoch, "tokens": int(module.tokens_seen.item())}
        return place | {"seconds": self._elapsed()}

    def _elapsed(self) -> float:
        return self._seconds + time.perf_counter() - self._since

    def _write(self, trainer: Trainer, row: Row) -> Row:
        for logger in trainer.loggers:
            logger.log_metrics(row, int(row["step"]))
        return row


def _peak_tokens(trainer: Trainer, module: TrainingModule) -> float | None:
    """Tokens per second at which the devices would do nothing but the model's products; None: they are not known.

    A backward pass takes twice the products of a forward pass, unless parameters are frozen, whose part is not counted
    here; what is computed again to save memory does not count.
    """
    length = getattr(getattr(trainer, "datamodule", None), "length", None)
    if not isinstance(length, int) or module.model.trained_size < module.model.size:
        return None
    flops = (1 + BACKWARD) * module.model.flops_per_token(length)
    peak = peak_flops(module.device, compute_dtype(str(trainer.precision)))
    return trainer.world_size * peak / flops if flops else None


def peak_memory(device: torch.device) -> int:
    """Peak bytes of tensors on this GPU, or of this process in main memory, since the process started."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
