"""Spikes of the loss and the gradient norm: marked, printed once each, and counted."""

import math
import sys
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from blockformer.data.processes import is_first
from blockformer.training.callbacks.step_callback import StepCallback, is_reporting_step
from blockformer.training.module import TrainingModule
from blockformer.training.score import TARGETS
from blockformer.training.watch.spikes import STEPS, SpikeRule

FIGURES = {"loss": "the loss", "gradient_norm": "the gradient norm"}


class Spikes(StepCallback):
    """Judges the loss and the gradient norm of every step by a :class:`SpikeRule`; training is not changed.

    The values stay on the device until the next reporting step or checkpoint, so that no step waits for them. The
    values that later steps are compared with are stored in checkpoints, so a continued run finds the same spikes.

    Args:
        factor: deviations above the median from which a step is a spike.
    """

    def __init__(self, factor: float) -> None:
        self._rules = {figure: SpikeRule(factor) for figure in FIGURES}
        self._marked = dict.fromkeys(FIGURES, 0)  # steps that stood out since the last row
        self._waiting: list[tuple[int, Tensor]] = []

    def after_step(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        assert isinstance(module, TrainingModule)
        assert module.window is not None
        assert module.gradient_norm is not None
        loss = module.window[0] / module.window[TARGETS].clamp(min=1)
        self._waiting.append((step, torch.stack([loss, module.gradient_norm.to(loss.dtype)])))
        if is_reporting_step(trainer, step):
            self._judge()

    def marks(self) -> dict[str, float]:
        """Steps that stood out since the last call, by figure; only figures of which some did."""
        marks = {f"spikes/{figure}": float(count) for figure, count in self._marked.items() if count}
        self._marked = dict.fromkeys(FIGURES, 0)
        return marks

    def counts(self) -> dict[str, int]:
        """Spikes of the run so far by figure, in words; figures without spikes are left out."""
        return {words: self._rules[figure].begun for figure, words in FIGURES.items() if self._rules[figure].begun}

    def state_dict(self) -> dict[str, Any]:
        self._judge()
        before = torch.full((len(FIGURES), STEPS), math.nan, dtype=torch.float64)
        for row, rule in zip(before, self._rules.values(), strict=True):
            row[: len(rule.before)] = torch.tensor(rule.before, dtype=torch.float64)
        rules = self._rules.items()
        begun, above = {name: rule.begun for name, rule in rules}, {name: rule.above for name, rule in rules}
        return {"before": before, "begun": begun, "above": above, "marked": dict(self._marked)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._marked = dict(state_dict["marked"])
        for before, (name, rule) in zip(state_dict["before"].tolist(), self._rules.items(), strict=True):
            rule.remember(before)
            rule.begun, rule.above = state_dict["begun"][name], state_dict["above"][name]

    def _judge(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        values = torch.stack([pair for _, pair in waiting]).tolist()
        for (step, _), pair in zip(waiting, values, strict=True):
            for value, (figure, rule) in zip(pair, self._rules.items(), strict=True):
                begun, usual = rule.begun, rule.judge(value)
                if usual is None:
                    continue
                self._marked[figure] += 1
                if rule.begun > begun and is_first():
                    line = f"note: spike of {FIGURES[figure]} at step {step}: {value:.4g}, usually {usual:.4g}"
                    print(line, file=sys.stderr, flush=True)
