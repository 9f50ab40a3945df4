"""Evaluations of the run's own, as parts of its validations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from blockformer.data.processes import data_processes
from blockformer.errors import UserError
from blockformer.files import as_json, write_text
from blockformer.training.callbacks.step_callback import is_dry_run
from blockformer.training.evaluations import Outcome, Planned, Subject, prepare
from blockformer.training.loggers import SafeWandbLogger
from blockformer.training.module import TrainingModule
from blockformer.training.parallel.strategy import ShardedStrategy
from blockformer.training.watch.forward import beside_training

GENERATED = "generated"
"""The folder of a run with the texts of evaluations: `generated/LABEL/step-N.jsonl`."""


class Evaluations(Callback):
    """Makes the evaluations that are due at the end of a validation; their figures belong to its row.

    So they see what the validation sees: the mean of the weights where there is one, in evaluation mode. The random
    states are those of before afterwards. At the last step all are due.

    Args:
        planned: the evaluations by label.
        folder: the run's, for texts.
    """

    def __init__(self, planned: Mapping[str, Planned], folder: Path) -> None:
        self.planned, self._folder = planned, folder

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the run makes validations, and prepare in each process.

        Raises:
            UserError: an evaluation is not possible; the message names it.
        """
        assert isinstance(pl_module, TrainingModule)
        check_evaluations(self.planned, trainer, pl_module, getattr(trainer, "datamodule", None))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        step, before = trainer.global_step, pl_module.validated_step
        last = trainer.should_stop or 0 < pl_module.total_steps <= step
        due = [label for label, one in self.planned.items() if last or one.is_due(step, before)]
        pl_module.evaluation_figures = {}
        with beside_training(trainer, pl_module):
            subject = subject_of(trainer, pl_module, trainer.datamodule)  # pyright: ignore[reportAttributeAccessIssue]
            for label in due:
                outcome = _outcome(label, self.planned[label], subject)
                pl_module.evaluation_figures |= {
                    f"eval/{label}/{name}": value for name, value in outcome.figures.items()
                }
                if outcome.texts and trainer.is_global_zero and not is_dry_run(trainer):
                    self._keep(trainer, pl_module, label, outcome)

    def _keep(self, trainer: Trainer, module: TrainingModule, label: str, outcome: Outcome) -> None:
        """Write the texts of an evaluation to its file of this step, which a run that continues writes again."""
        path = self._folder / GENERATED / label / f"step-{trainer.global_step}.jsonl"
        write_text(path, "".join(as_json(dict(row), ensure_ascii=False) + "\n" for row in outcome.texts))
        place = {"step": trainer.global_step, "tokens": int(module.tokens_seen.item())}
        for logger in trainer.loggers:
            if isinstance(logger, SafeWandbLogger):
                logger.log_texts(f"eval/{label}/texts", outcome.texts, place)


def check_evaluations(
    planned: Mapping[str, Planned], trainer: Trainer, module: TrainingModule, data: Any, monitor: str | None = None
) -> None:
    """Check that the evaluations of a run can be made, and prepare them.

    Args:
        planned: the evaluations by label.
        trainer: the run's.
        module: the run's.
        data: the run's data module.
        monitor: the figure that decides which validation is the best; None: it is not checked.

    Raises:
        UserError: one cannot, or does not have the figure; the message names it.
    """
    if not planned:
        return
    if isinstance(trainer.strategy, ShardedStrategy):
        raise UserError(
            "evaluations need the whole model in each process, which trainer.strategy divides: use ddp, or evaluate "
            "checkpoints after the run"
        )
    if trainer.limit_val_batches == 0:
        raise UserError("evaluations belong to validations, and trainer.limit_val_batches is 0: raise it")
    prepare(planned, subject_of(trainer, module, data), monitor)


def subject_of(trainer: Trainer, module: TrainingModule, data: Any) -> Subject:
    """The model of a run, and this process's place among those that share the work."""
    return Subject(module.model, data, module.objective, *data_processes(trainer))


def _outcome(label: str, planned: Planned, subject: Subject) -> Outcome:
    try:
        return planned.evaluation(subject)
    except (UserError, ValueError) as error:
        raise UserError(f"evaluations.{label}: {error}") from error
