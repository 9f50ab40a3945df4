"""The file that `predict` writes."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter


class Predictions(BasePredictionWriter):
    """Writes one JSON object per row of data: predicted and correct text at the scored places, and the accuracy.

    Args:
        path: the file; an existing one is overwritten.
    """

    def __init__(self, path: Path) -> None:
        super().__init__("batch")
        self._path = path

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            raise ValueError("predict writes one file: use --trainer.devices 1")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text("")

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        decode = trainer.datamodule.tokenizer.decode  # type: ignore[attr-defined]
        with self._path.open("a", encoding="utf-8") as stream:
            for predicted, wanted in zip(prediction["predictions"].cpu(), prediction["targets"].cpu(), strict=True):
                scored = wanted >= 0
                if not scored.any():
                    continue
                texts = {"predicted": decode(predicted[scored].tolist()), "target": decode(wanted[scored].tolist())}
                accuracy = (predicted[scored] == wanted[scored]).float().mean().item()
                stream.write(json.dumps({**texts, "accuracy": accuracy}, ensure_ascii=False) + "\n")
