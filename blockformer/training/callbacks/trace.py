"""A trace of a few steps by torch's profiler."""

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.profilers.pytorch import RegisterRecordFunction
from torch.profiler import ProfilerActivity, profile, schedule

from blockformer.training.callbacks.step_callback import StepCallback, is_dry_run
from blockformer.training.module import TrainingModule
from registry.text import printable

TRACE = "trace.json"
WAIT = 3
"""Steps that are left out: kernels are chosen, memory is allocated and models are compiled in them."""


class StepTrace(StepCallback):
    """Records optimizer steps in the first process and writes them as `trace.json`, in Chrome's trace format.

    The first three steps of a session are not recorded, nor is the one after them, in which the profiler warms up.
    Forward passes of modules have their names as ranges, except inside a compiled model. A validation between two of
    the steps is part of the trace.

    Args:
        steps: how many are recorded.
        folder: the run's.
    """

    def __init__(self, steps: int, folder: Path) -> None:
        self._steps, self._folder, self._made = steps, folder, 0
        self._profiler: profile | None = None
        self._names: Any = None

    def after_step(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        assert isinstance(module, TrainingModule)
        if not trainer.is_global_zero or is_dry_run(trainer):
            return
        self._made += 1
        if self._made == WAIT:
            self._begin(module)
        elif self._profiler is not None and self._made <= WAIT + self._steps:
            self._profiler.step()
        elif self._profiler is not None:
            self._end()
            path = self._folder / TRACE
            draft = path.with_name(f".{TRACE}.tmp")
            self._profiler.export_chrome_trace(str(draft))
            draft.replace(path)
            self._profiler = None
            steps = f"steps {step - self._steps + 1} to {step}"
            print(f"trace of {steps}: {printable(path)}; open it at https://ui.perfetto.dev", flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._made <= WAIT + self._steps and trainer.is_global_zero and not is_dry_run(trainer):
            least = WAIT + 1 + self._steps
            reason = f"a trace needs {least} steps, and these were {self._made}"
            print(f"note: run.profile {self._steps}: {reason}", file=sys.stderr, flush=True)
        self.on_exception(trainer, pl_module, None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException | None) -> None:
        """Stop recording; nothing is written."""
        if self._profiler is not None:
            self._end()
            self._profiler = None

    def _begin(self, module: TrainingModule) -> None:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        plan = schedule(wait=0, warmup=1, active=self._steps, repeat=1)
        self._profiler = profile(activities=activities, schedule=plan, record_shapes=True)
        self._profiler.start()
        self._names = RegisterRecordFunction(module)
        self._names.__enter__()

    def _end(self) -> None:
        assert self._profiler is not None
        self._names.__exit__(None, None, None)
        self._profiler.stop()
