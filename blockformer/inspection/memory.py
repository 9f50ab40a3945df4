"""How much memory a model needs, measured with tensors that have shapes but no storage."""

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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from blockformer.assembly import check
from blockformer.assembly.free_memory import TooLargeError, free_memory
from blockformer.data.samples import Batch
from blockformer.inspection.batch import random_batch
from blockformer.inspection.cost import cache_bytes
from blockformer.training.activation_checkpointing import KEPT, Checkpointing, checkpoint_layers
from blockformer.training.objectives import objective_for
from blockformer.training.objectives.multi_token_prediction import extra_of
from blockformer.training.objectives.vocabulary_loss import rows_at_once
from blockformer.training.optimizers import OptimizerSettings, Sharding
from blocks.base import Component, Mixer
from blocks.models.base import Model
from registry import Recipe

PRECISIONS = {"fp32": torch.float32, "bf16-mixed": torch.float32, "bf16-true": torch.bfloat16}
"""Data type of the parameters; ``bf16-mixed`` computes in bfloat16 where that is safe (autocast)."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one model in one precision.

    Attributes:
        parameters: of the model.
        gradients: one number for each parameter that is trained by default, see
            :meth:`blockformer.training.optimizers.OptimizerSettings.choose_trained`.
        optimizer: AdamW's state.
        activations: what a forward pass in training mode saves for its backward pass, by the slot that saves it.
        dropout: the part of that which is saved only because attention has dropout; fused GPU kernels do not save it.
        logits: of the rows that have them at the same time, see
            :func:`blockformer.training.objectives.vocabulary_loss.loss_of_hidden`.
        loss: what the loss of these rows saves for its backward pass, and its gradient for the final vectors of all.
        cache: after ``length`` tokens of one sequence; None for a model without a cache, and for a part of one.
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
        """Everything allocated when the backward pass begins."""
        held = self.parameters + self.gradients + self.optimizer + self.logits + self.loss
        return held + sum(self.activations.values())


def memory(
    recipe: Recipe,
    precision: str,
    batch: int,
    length: int,
    split: Callable[[Model], None] | None = None,
    checkpointing: Checkpointing = "none",
) -> Memory:
    """Memory for training on (batch, length) tokens, and for inference.

    The operations are those of a CPU; nothing is computed or allocated.

    Args:
        recipe: what to build.
        precision: one of :data:`PRECISIONS`.
        batch: number of sequences.
        length: tokens in each.
        split: leaves of a model on the meta device the part of one process; None: all of it.
        checkpointing: what layers compute again in the backward pass instead of keeping it.
    """
    dtype = PRECISIONS[precision]
    meta = check(recipe).to(dtype)
    if split is not None:
        split(meta)
    OptimizerSettings().choose_trained(meta)
    whole = split is None and hasattr(meta, "cached_per_token")
    cached = cache_bytes(meta, length, dtype) if whole else None
    with FakeTensorMode(), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Mismatch dtype between input and weight"
        )  # from kernels that do not run here
        model = with_fake_parameters(meta).train()
        checkpoint_layers(model, checkpointing)
        activations, logits, loss = saved_for_backward(model, batch, length, precision, checkpointing)
        for module in model.modules():
            if isinstance(module, Mixer):
                module.eval()
        fused, _, _ = saved_for_backward(model, batch, length, precision, checkpointing)
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


def with_fake_parameters(model: Model) -> Model:
    """Replace a meta model's parameters and buffers by fake CPU tensors, under an active FakeTensorMode."""
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


def saved_for_backward(
    model: Model, batch: int, length: int, precision: str, checkpointing: Checkpointing = "none"
) -> tuple[dict[str, int], int, int]:
    """Bytes that a forward pass saves by slot, bytes of the logits at a time, and bytes that the loss keeps besides.

    Each storage counts once, for the block that saves it first; parameters do not count.
    """
    owned = {StorageWeakRef(parameter.untyped_storage()) for parameter in model.parameters()}
    inside: list[str] = ["model"]
    seen: dict[StorageWeakRef, tuple[str, int]] = {}

    def see(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if (held := StorageWeakRef(storage)) not in owned:
            seen.setdefault(held, (inside[-1], storage.nbytes()))

    def pack(tensor: Tensor) -> Tensor:
        see(tensor)
        return tensor.detach()  # like autograd: the tensor itself would keep its whole history alive

    tokens = random_batch(model, batch, length)
    kept = _Results(lambda made: see(made) if "layer" in inside else None)
    kept = kept if checkpointing == "selective" else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), _slots(model, inside), kept:
        with _autocast(precision):
            rows = _vectors(model, tokens).flatten(0, -2)
            part = rows[: rows_at_once(model.vocab_size, len(rows))]
            logits = model.logits(part)
        inside.append("loss")
        targets = tokens["targets"].flatten()
        wanted = targets.repeat(len(rows) // len(targets))[: len(part)]
        loss = torch.nn.functional.cross_entropy(logits.float(), wanted)
    saved: dict[str, int] = {}
    for held, (slot, size) in seen.items():
        if not held.expired():  # tensors whose graph was dropped are freed by now
            saved[slot] = saved.get(slot, 0) + size
    of_loss = saved.pop("loss", 0) + (_bytes(rows) if len(part) < len(rows) else 0)
    del loss
    return saved, _bytes(logits), of_loss


class _Results(TorchDispatchMode):
    """Calls a function with each result of an operator whose results selective checkpointing keeps."""

    def __init__(self, see: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._see = see

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in KEPT:
            for result in tree_leaves(made):
                if isinstance(result, Tensor):
                    self._see(result)
        return made


def _vectors(model: Model, batch: Batch) -> Tensor:
    """(..., T, D) vectors before the head, as in training: those of extra predictions too."""
    if extra_of(model):
        return model(batch["tokens"], hidden=True, extra=True)
    return objective_for(model.kind).hidden(model, batch)


@contextmanager
def _slots(model: Model, inside: list[str]) -> Generator[None]:
    """Maintain in ``inside`` a stack of the slots of the running blocks."""

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
    """Bytes of the optimizer's state for each parameter tensor, and for each of its numbers, measured on small ones."""

    def state(numbers: int) -> int:
        parameter = nn.Parameter(torch.zeros(numbers, dtype=dtype))
        group = {"params": [parameter], "lr": 1.0, "weight_decay": 0.0, "matrix": False}
        optimizer = OptimizerSettings().optimizer.make([group], fused=False, sharding=Sharding())
        parameter.grad = torch.zeros(numbers, dtype=dtype)
        optimizer.step()
        return sum(_bytes(value) for values in optimizer.state.values() for value in values.values())

    each = state(9) - state(8)
    return state(8) - 8 * each, each


def require_memory(recipe: Recipe, batch: int, length: int) -> None:
    """Check that a forward and backward pass in float32 fits into the free memory.

    Raises:
        TooLargeError: it does not.
    """
    needs = memory(recipe, "fp32", batch, length)
    needed, free = needs.training - needs.optimizer, free_memory()
    if needed > free:
        raise TooLargeError(
            f"{recipe.name}: building and running it takes {needed / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB are "
            "free: make it smaller, for example with --set vocab_size=1000, a smaller dim or fewer layers"
        )
