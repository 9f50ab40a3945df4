"""The file that `predict` writes."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from blockformer.errors import UserError
from blockformer.files import as_json, replacing
from blockformer.training.module import TrainingModule


class Predictions(BasePredictionWriter):
    """Writes what the objective says about each row of data, as a JSON object: such as predicted and correct text.

    Args:
        path: the file; an existing one is replaced when all is written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__("batch")
        self._path = path
        self._open = ExitStack()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            raise UserError("predict writes one file: use --trainer.devices 1")
        self._stream = self._open.enter_context(replacing(self._path))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the file in place."""
        self._open.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove what is written; an earlier file stays."""
        self._open.__exit__(type(exception), exception, exception.__traceback__)

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
        assert isinstance(pl_module, TrainingModule)
        data = trainer.datamodule  # type: ignore[attr-defined]
        for predicted, wanted in zip(prediction["predictions"].cpu(), prediction["targets"].cpu(), strict=True):
            row = pl_module.objective.written(predicted, wanted, data)
            if row is not None:
                self._stream.write(f"{as_json(row, ensure_ascii=False)}\n".encode(errors="backslashreplace"))
