"""Lightning's fit loop, which makes up for a validation that a stop prevented and validates after the last step."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop


class FitLoop(_FitLoop):
    """Trains, and validates wherever a run must have validated.

    Lightning takes a validation that a stop has prevented for done, and a run may end between two validations. This
    loop stores in each checkpoint whether the validation of its step is still to come, makes it before the first batch
    of the run that continues, and validates after the last step if that step is not validated yet.

    Args:
        trainer: the trainer, whose own loop this one takes over.
    """

    def __init__(self, trainer: Trainer) -> None:
        given = trainer.fit_loop
        super().__init__(trainer, given.min_epochs, given.max_epochs)
        self.epoch_loop = given.epoch_loop
        self.skipped = False  # whether there was nothing left to do
        self._owed = False  # whether the checkpoint's step is still to be validated

    @property
    def validation_due(self) -> bool:
        """Whether the current step is to be validated and is not yet."""
        if self._validated or not self._validates():
            return False
        return self.trainer.validating or self.at_last_step or self.epoch_loop._should_check_val_fx(self._data_fetcher)  # pyright: ignore[reportArgumentType]

    @property
    def at_last_step(self) -> bool:
        """Whether the run has made all its steps."""
        return 0 < self._module.total_steps <= self.trainer.global_step

    @property
    def skip(self) -> bool:
        started = self.trainer.global_step > 0
        self.skipped = super().skip and not (started and not self._validated and self._validates())
        return self.skipped

    def on_run_start(self) -> None:
        super().on_run_start()
        if self._owed and not self._validated:
            self._validate()
        self._owed = False

    def on_run_end(self) -> None:
        if not self._validated:
            self._validate()
        super().on_run_end()

    def on_save_checkpoint(self) -> dict[str, Any]:
        return super().on_save_checkpoint() | {"validation_due": self.validation_due}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        self._owed = bool(state_dict.get("validation_due"))

    @property
    def _module(self) -> Any:
        return self.trainer.lightning_module

    @property
    def _validated(self) -> bool:
        return self._module.validated_step == self.trainer.global_step

    def _validates(self) -> bool:
        """Whether this run has anything to validate on."""
        if not self.trainer.enable_validation:
            return False
        self.epoch_loop.val_loop.setup_data()
        return sum(self.epoch_loop.val_loop.max_batches) > 0

    def _validate(self) -> None:
        """Validate between two steps, as the epoch loop does after one."""
        if not self._validates():
            return
        trainer, connector = self.trainer, self.trainer._logger_connector
        self.epoch_loop.val_loop.restarting = False  # from its first batch, whatever the checkpoint counts
        trainer.validating, first = True, connector._first_loop_iter
        self.epoch_loop.val_loop.run()
        trainer.training, connector._first_loop_iter = True, first
