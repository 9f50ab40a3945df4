"""Pictures of the attention weights of a few validation rows, at intervals."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from blockformer.assembly.checkpoint import PREFIX
from blockformer.data.samples import Batch
from blockformer.errors import UserError
from blockformer.training.callbacks.metrics import MetricsLogger
from blockformer.training.callbacks.step_callback import StepCallback, is_dry_run, is_due
from blockformer.training.loggers import SafeWandbLogger
from blockformer.training.module import TrainingModule
from blockformer.training.parallel.shards import Shards
from blockformer.training.watch.attention import Observe, attending, map_of, mixers_without_weights, observed
from blockformer.training.watch.forward import beside_training
from blockformer.training.watch.pictures import draw_maps
from blocks.attention.scoring import Scoring
from blocks.attention.visibility import Visibility
from registry import entry_of

FOLDER = "attention"
ROWS, TOKENS = 2, 128
"""How many rows of the validation split are drawn, and how many of their first tokens."""


class AttentionMaps(StepCallback):
    """Draws the attention weights of each softmax attention at the first step and every ``every`` steps.

    The rows are always the first two of the validation split; the pass is in evaluation mode and changes nothing.
    Pictures are `attention/step-N/PATH.png` in the run's folder, and in W&B `attention/PATH`. Mixers without attention
    weights are named once.

    Args:
        every: optimizer steps between two sets of pictures.
        folder: the run's.
        meter: its clock stands still meanwhile, and it gives the pictures their place in W&B.
    """

    def __init__(self, every: int, folder: Path, meter: MetricsLogger) -> None:
        self._every, self._folder, self._meter = every, folder, meter
        self._batch: Batch = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the rows, when the data have been set up for the objective.

        Raises:
            UserError: nothing is held out for validation.
        """
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if not len(data.samples("validation")):
            raise UserError(
                "run.attention_every: the validation split, whose rows it draws, is empty: give data.validation"
            )
        batch = data.loader("validation").batch(0)
        self._batch = {key: value[:ROWS] for key, value in batch.items() if value.ndim}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        assert isinstance(pl_module, TrainingModule)
        if trainer.is_global_zero and (without := mixers_without_weights(pl_module.model)):
            kinds = dict.fromkeys(entry_of(type(mixer)).name for mixer in without.values())
            first, more = next(iter(without)), f" and {len(without) - 1} more" if len(without) > 1 else ""
            line = f"note: run.attention_every: no attention weights to draw in {first}{more} ({', '.join(kinds)})"
            print(line, file=sys.stderr, flush=True)

    def after_step(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        assert isinstance(module, TrainingModule)
        if not is_due(step, self._every) or is_dry_run(trainer):
            return
        with self._meter.paused():
            if module.shards is not None or trainer.is_global_zero:  # parts of the model run in all processes or none
                maps = _maps(trainer, module, trainer.strategy.batch_to_device(self._batch))
                if trainer.is_global_zero:
                    self._draw(trainer, module, maps, step)

    def _draw(self, trainer: Trainer, module: TrainingModule, maps: Mapping[str, Tensor], step: int) -> None:
        folder = self._folder / FOLDER / f"step-{step}"
        drawn: dict[str, Path] = {}
        for path, weights in maps.items():
            drawn[f"{FOLDER}/{path}"] = file = folder / f"{path}.png"
            draw_maps(file, weights, f"{path}, step {step}")
        head = self._meter.head(trainer, module)
        for logger in trainer.loggers:
            if isinstance(logger, SafeWandbLogger):
                logger.log_pictures(drawn, head)


def _maps(trainer: Trainer, module: TrainingModule, batch: Batch) -> dict[str, Tensor]:
    """(B, H, T, S) weights on the CPU by path; a further run of a shared layer has a number after its path."""
    found: dict[str, Tensor] = {}

    def noted(path: str) -> Observe:
        def observe(q: Tensor, k: Tensor, visible: Visibility, scoring: Scoring) -> None:
            runs = sum(known.partition("#")[0] == path for known in found)
            weights = map_of(q, k, visible, scoring, TOKENS)
            found[f"{path}#{runs + 1}" if runs else path] = _all_heads(path, weights, module.shards).cpu()

        return observe

    attentions = attending(module.model)
    with beside_training(trainer, module), observed((part, noted(path)) for path, part in attentions.items()):
        module.objective(module.model, batch)
    return found


def _all_heads(path: str, weights: Tensor, shards: Shards | None) -> Tensor:
    """The weights of all heads, of which tensor parallelism leaves each process some."""
    if shards is None or not any(name.startswith(f"{PREFIX}{path}.") for name in shards.cuts):
        return weights
    parts = [torch.empty_like(weights) for _ in range(shards.tensor.size())]
    dist.all_gather(parts, weights.contiguous(), group=shards.tensor.get_group())
    return torch.cat(parts, dim=1)
