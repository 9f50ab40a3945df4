"""How much memory a model takes, measured with tensors that have shapes but no memory."""

import warnings
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef

from blockformer.assembly import check
from blockformer.inspection.batch import logits_of, mean_loss, random_batch
from blockformer.inspection.cost import cached_bytes
from blockformer.training.optimizer import OptimizerSettings, make_optimizer
from blocks.base import Component, Mixer
from blocks.models.base import Model
from registry import Recipe

PRECISIONS = {"fp32": torch.float32, "bf16-mixed": torch.float32, "bf16-true": torch.bfloat16}
"""What parameters are kept in; ``bf16-mixed`` computes in bfloat16 where that is safe."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one model in one precision.

    Attributes:
        parameters: of the model.
        gradients: one number for each parameter that is trained.
        optimizer: AdamW's state.
        activations: what a forward in training mode keeps for its backward, by the slot of the block that keeps it.
        dropout: how much of that is kept only because attention has dropout, which a fused kernel of a GPU keeps not.
        logits: of the whole batch.
        loss: what the loss keeps for its backward.
        cache: after ``length`` tokens of one sequence; None for a model that has no cache.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: dict[str, int]
    dropout: int
    logits: int
    loss: int
    cache: int | None

    @property
    def training(self) -> int:
        """All that is there when the backward pass begins."""
        held = self.parameters + self.gradients + self.optimizer + self.logits + self.loss
        return held + sum(self.activations.values())


def memory(recipe: Recipe, precision: str, batch: int, length: int) -> Memory:
    """What training on (batch, length) tokens needs, and what inference does.

    The operations are those of a CPU; nothing is computed or allocated.

    Args:
        recipe: what to build.
        precision: one of :data:`PRECISIONS`.
        batch: sequences.
        length: tokens in each.
    """
    dtype = PRECISIONS[precision]
    meta = check(recipe).to(dtype)
    cached = cached_bytes(meta, length, dtype) if hasattr(meta, "cached_per_token") else None
    with FakeTensorMode(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")  # of kernels not run here
        model = without_memory(meta).train()
        activations, logits, loss = kept_for_backward(model, batch, length, precision)
        for module in model.modules():
            if isinstance(module, Mixer):
                module.eval()
        fused, _, _ = kept_for_backward(model, batch, length, precision)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return Memory(
        parameters=sum(map(_bytes, model.parameters())),
        gradients=sum(map(_bytes, trained)),
        optimizer=sum(_optimizer_bytes(one.numel(), one.dtype) for one in trained),
        activations=activations,
        dropout=sum(activations.values()) - sum(fused.values()),
        logits=logits,
        loss=loss,
        cache=cached,
    )


def without_memory(model: Model) -> Model:
    """Give a model on the meta device parameters that claim to be on the CPU, under an active FakeTensorMode."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in made:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
                made[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
            setattr(module, name, made[id(parameter)])
        for name, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")
    return model


def kept_for_backward(model: Model, batch: int, length: int, precision: str) -> tuple[dict[str, int], int, int]:
    """Bytes that a forward keeps by slot, bytes of the logits, and bytes that the loss keeps besides.

    Each storage counts once, for the block that keeps it first; parameters do not count.
    """
    owned = {StorageWeakRef(parameter.untyped_storage()) for parameter in model.parameters()}
    inside: list[str] = ["model"]
    seen: dict[StorageWeakRef, tuple[str, int]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if (held := StorageWeakRef(storage)) not in owned:
            seen.setdefault(held, (inside[-1], storage.nbytes()))
        return tensor.detach()  # as autograd itself would: the tensor as such would keep its whole history

    tokens = random_batch(model, batch, length)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), _slots(model, inside):
        with _autocast(precision):
            logits = logits_of(model, tokens)
        inside.append("loss")
        loss = mean_loss(logits, tokens)
    kept: dict[str, int] = {}
    for held, (slot, size) in seen.items():
        if not held.expired():  # what led nowhere is gone by now
            kept[slot] = kept.get(slot, 0) + size
    told = kept.pop("loss", 0)
    del loss
    return kept, _bytes(logits), told


@contextmanager
def _slots(model: Model, inside: list[str]) -> Generator[None]:
    """Keep in ``inside`` the slots of the blocks that are running, the innermost last."""

    def begin(slot: str) -> Callable[..., None]:
        return lambda *_: inside.append(slot)

    def end(*_: Any) -> None:
        inside.pop()

    hooks: list[Any] = []
    for module in model.modules():
        if isinstance(module, Component):
            hooks += [module.register_forward_pre_hook(begin(module.slot.name)), module.register_forward_hook(end)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _autocast(precision: str) -> AbstractContextManager[Any]:
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16-mixed" else nullcontext()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _optimizer_bytes(numbers: int, dtype: torch.dtype) -> int:
    fixed, each = _optimizer_cost(dtype)
    return fixed + numbers * each


@cache
def _optimizer_cost(dtype: torch.dtype) -> tuple[int, int]:
    """Bytes of the optimizer's state for a parameter as such, and for each of its numbers, seen on small ones."""

    def state(numbers: int) -> int:
        module = nn.ParameterList([nn.Parameter(torch.zeros(numbers, dtype=dtype))])
        optimizer = make_optimizer(module, OptimizerSettings(), fused=False)
        module[0].grad = torch.zeros(numbers, dtype=dtype)
        optimizer.step()
        return sum(_bytes(value) for values in optimizer.state.values() for value in values.values())

    each = state(9) - state(8)
    return state(8) - 8 * each, each
