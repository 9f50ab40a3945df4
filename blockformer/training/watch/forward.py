"""A forward pass beside training, which leaves training as it was."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from lightning.pytorch import Trainer
from torch.distributed.fsdp import FSDPModule

from blockformer.training.module import TrainingModule
from blockformer.training.random_states import current, restore


@contextmanager
def beside_training(trainer: Trainer, module: TrainingModule) -> Generator[None]:
    """Evaluation mode without gradients and without compilation; the random states are those of before afterwards.

    Where parameters are sharded, every process must run the same passes.
    """
    modes = [(part, part.training) for part in module.modules()]
    state = current()
    module.eval()
    try:
        with torch.no_grad(), trainer.precision_plugin.val_step_context(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        restore(state)
        for part, training in modes:
            part.training = training
            if isinstance(part, FSDPModule):
                part.reshard()  # after a forward without a backward pass, some parameters are whole
