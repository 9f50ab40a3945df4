"""Random states of every rank: distinct at the start, stored in checkpoints, unchanged by validation."""

from itertools import combinations
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from blockformer.data.processes import data_processes
from blockformer.training.checkpoint_state import StateMismatchError, compare_state, unusable
from blockformer.training.random_states import State, current, restore, seed

KEY = "random_states"


class RandomState(Callback):
    """Stores and restores random states, so that dropout in a continued run goes on exactly.

    Lightning stores no random states. Here the state of each rank is saved in the checkpoint and restored before the
    first batch, after all draws of the trainer's setup. The state is also restored after each validation, so that the
    number of validations does not change the result. Processes of a tensor-parallel group read the same data and need
    the same dropout, so they share a state.

    Args:
        seed: the run's seed; ranks that read different data get different streams from it.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._saved: list[State] | None = None
        self._own: State | None = None

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get(KEY)
        try:
            for place, state in enumerate(saved or []):
                _check(state, f"{KEY}.{place}")
        except StateMismatchError as error:
            raise unusable(trainer, error) from None
        self._saved = saved

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        states: list[Any] = [None] * trainer.world_size
        own = self._own or current()
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(states, own)
        checkpoint[KEY] = states if trainer.world_size > 1 else [own]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        saved, self._saved = self._saved, None
        data = data_processes(trainer)
        if saved and len(saved) == trainer.world_size:
            firsts = saved[:: trainer.world_size // data.world]  # the processes of a group share a state
            if not any(torch.equal(a["torch"], b["torch"]) for a, b in combinations(firsts, 2)):
                self._own = firsts[data.rank]
                return
        if saved:
            rank_zero_warn(
                f"this run had {len(saved)} processes and now has {trainer.world_size}"
                f"{', which read other data' * (len(saved) == trainer.world_size)}: random states start afresh"
            )
        seed(self._seed, data.rank, trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if self._own is not None:
            restore(self._own)
            self._own = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._own is None:  # restored before the next batch; a checkpoint before that stores it
            self._own = current()


def _check(state: State, path: str) -> None:
    """Try a state on this process's generators, and set them back.

    Raises:
        StateMismatchError: it is no state of theirs.
    """
    own = current()
    compare_state({key: value for key, value in own.items() if key != "cuda"}, state, path)
    try:
        restore(state)
    except (ValueError, TypeError, RuntimeError, LookupError, OverflowError):
        raise StateMismatchError(f"{path} is not a state of the random generators") from None
    finally:
        restore(own)
