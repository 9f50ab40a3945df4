"""Where a step broke: the first place whose output, or else whose gradient, is infinite or NaN."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from blockformer.data.samples import Batch
from blockformer.training.module import TrainingModule
from blockformer.training.parallel.shards import local
from blockformer.training.watch.forward import beside_training
from blockformer.training.watch.places import parameters_by_place, places

LOSS = "the loss"


def first_broken(trainer: Trainer, module: TrainingModule, batches: Sequence[Batch]) -> str:
    """Run the batches of a step again, before its update, and find the place; the same in all processes.

    The second pass is in evaluation mode. If all its outputs are finite, the gradients are looked at: a backward pass
    begins with the last layer, and what it breaks stays broken in all layers before, so the last one is reported.

    Args:
        trainer: the trainer.
        module: with the gradients of the step.
        batches: of this process, one for each of the parts that are accumulated.

    Returns:
        The end of a sentence, such as `first in the output of decoder.layers.3`.
    """
    order: list[str] = []
    for batch in batches:
        finite = _finite_outputs(trainer, module, batch)
        order = list(finite)
        if broken := _not_finite(trainer, module, finite):
            where = f"first in the output of {broken[0]}"
            return where if broken[0] != LOSS else "the outputs of all layers are finite, the loss is not"
    members = parameters_by_place(module.model)
    gradients = {
        f"{place} {name}": torch.ones(()) if parameter.grad is None else local(parameter.grad).isfinite().all()
        for place in sorted(members, key=lambda place: order.index(place) if place in order else -1)
        for name, parameter in members[place]
    }
    broken = _not_finite(trainer, module, gradients)
    if not broken:
        return "a second forward pass of its batch, without dropout, is finite"
    place, name = broken[-1].split()
    return f"in {len(broken)} of {len(gradients)} gradients; the backward pass breaks in {place} ({name})"


def _finite_outputs(trainer: Trainer, module: TrainingModule, batch: Batch) -> dict[str, Tensor]:
    """Whether the output of each place is finite, and at last whether the loss is, in the order of the forward pass."""
    finite: dict[str, Tensor] = {}

    def noted(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                now = output.isfinite().all()
                finite[path] = finite[path] & now if path in finite else now

        return hook

    handles = [part.register_forward_hook(noted(path)) for path, part in places(module.model)]
    try:
        with beside_training(trainer, module):
            loss, _ = module.objective(module.model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return finite | {LOSS: loss.isfinite()}


def _not_finite(trainer: Trainer, module: TrainingModule, finite: dict[str, Tensor]) -> list[str]:
    """The names of those that are not finite in any process, in their order."""
    broken = torch.stack([1.0 - one.to(module.device, torch.float32) for one in finite.values()])
    if trainer.world_size > 1:
        broken = trainer.strategy.reduce(broken, reduce_op="max")
    return [name for name, flag in zip(finite, broken.tolist(), strict=True) if flag]
