"""Which strategies fit into the memory of some devices, what each device holds, and the nearest change that fits."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import cache

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from blockformer.assembly import check
from blockformer.errors import UserError
from blockformer.inspection.memory import PRECISIONS, Memory, memory
from blockformer.training.activation_checkpointing import Checkpointing
from blockformer.training.callbacks.metrics import BACKWARD
from blockformer.training.optimizers import OptimizerSettings
from blockformer.training.parallel.plan import Plan, apply_plan, make_plan
from blockformer.training.parallel.sequence import stacks, sublayers
from blockformer.training.parallel.shards import DATA, TENSOR
from blocks.base import Layer, Stack
from blocks.models.base import Model
from registry import Recipe

SPARE = 0.08  # of a device's memory, for its context, kernels' temporary memory and fragments of the allocator


@dataclass(frozen=True)
class Layout:
    """How a strategy divides work among devices.

    Attributes:
        strategy: its name.
        data: groups that read different data.
        tensor: devices in a group, which split each layer.
        sharded: whether the groups shard parameters, gradients and the optimizer's state.
    """

    strategy: str
    data: int
    tensor: int
    sharded: bool

    def __str__(self) -> str:
        both = self.sharded and self.tensor > 1
        return f"fsdp2 {self.data} x tensor_parallel {self.tensor}" if both else self.strategy


@dataclass(frozen=True)
class Need:
    """What one device needs with a layout, in bytes at the start of the backward pass.

    Attributes:
        layout: of the devices.
        rows: sequences that a device reads at a time.
        parameters: those that it keeps.
        gradients: of these.
        optimizer: AdamW's state of these.
        activations: what the forward pass saves.
        logits: with what the loss saves.
        exchange: layers that FSDP2 has gathered, or buckets of gradients that DDP averages.
        sent: bytes that it sends in a step.
        refused: why the layout cannot be; None: it can.
    """

    layout: Layout
    rows: int = 0
    parameters: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    logits: int = 0
    exchange: int = 0
    sent: int = 0
    refused: str | None = None

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.logits + self.exchange


class DevicePlan:
    """The needs of one recipe.

    Args:
        recipe: what to train.
        precision: one of :data:`~blockformer.inspection.memory.PRECISIONS`.
        length: tokens in a sequence; None: the longest of the model.
        fused: whether attention with dropout has a kernel that saves no scores, as on a GPU.
        checkpointing: what layers compute again in the backward pass instead of keeping it.
        tokens: whether devices that split layers keep only their part of the tokens between sublayers.
    """

    def __init__(
        self,
        recipe: Recipe,
        precision: str,
        length: int | None,
        *,
        fused: bool = True,
        checkpointing: Checkpointing = "none",
        tokens: bool = False,
    ) -> None:
        self.recipe, self.precision, self.fused = recipe, precision, fused
        self.checkpointing: Checkpointing = checkpointing
        self.tokens = tokens
        self.model = check(recipe)
        self.length = self.model.length_limit[1] if length is None else length
        OptimizerSettings().choose_trained(self.model)
        self._memory: Callable[[int, int, Checkpointing, bool], Memory] = cache(self._measured)

    def but(self, checkpointing: Checkpointing, *, tokens: bool) -> "DevicePlan":
        """The same with other checkpointing, and tokens that are split between sublayers or not."""
        other = copy(self)  # what was measured is shared
        other.checkpointing, other.tokens = checkpointing, tokens
        return other

    def layouts(self, devices: int) -> Iterator[Layout]:
        """All ways to use some devices."""
        if devices == 1:
            yield Layout("one device", 1, 1, sharded=False)
            return
        yield Layout("ddp", devices, 1, sharded=False)
        yield Layout("fsdp2", devices, 1, sharded=True)
        yield Layout("tensor_parallel", 1, devices, sharded=False)
        for tensor in range(2, devices):
            if devices % tensor == 0:
                yield Layout("both", devices // tensor, tensor, sharded=True)

    def need(self, layout: Layout, batch: int) -> Need:
        """What one device needs for a batch of so many sequences over all devices."""
        if batch % layout.data:
            return Need(layout, refused=f"a batch of {batch} is not a multiple of {layout.data}")
        try:
            plan = make_plan(self.model, layout.tensor, tokens=self.tokens) if layout.tensor > 1 else Plan(1)
        except UserError as error:
            return Need(layout, refused=str(error).removeprefix("--trainer.strategy tensor_parallel: "))
        rows = batch // layout.data
        found = self._memory(rows, layout.tensor, self.checkpointing, self.tokens)
        need = Need(
            layout,
            rows,
            found.parameters,
            found.gradients,
            found.optimizer,
            self._kept(found) + self._computed_again(found, rows, layout.tensor),
            found.logits + found.loss,
        )
        reduced = 2 * (layout.tensor - 1) / layout.tensor  # times its size that an all-reduce sends
        vectors = rows * self.length * self.model.dim * (4 if self.precision == "fp32" else 2)
        gathers = 2 * sum(len(list(sublayers(stack))) for _, stack in stacks(self.model)) if plan.tokens else 0
        sent = int((len(plan.boundaries) + gathers / 2) * vectors * reduced)
        if not layout.sharded:
            others = layout.data > 1
            averaged = int(2 * need.gradients * (layout.data - 1) / layout.data)
            return replace(need, exchange=need.gradients * others, sent=sent + averaged)
        return self._sharded(need, plan, sent)

    def _kept(self, found: Memory) -> int:
        return sum(found.activations.values()) - found.dropout * self.fused

    def _computed_again(self, found: Memory, rows: int, tensor: int) -> int:
        """What one layer has besides while the backward pass computes it again: the mean over all layers."""
        if self.checkpointing == "none":
            return 0
        runs = sum(stack.depth for stack in self.model.modules() if isinstance(stack, Stack))
        return (self._kept(self._memory(rows, tensor, "none", self.tokens)) - self._kept(found)) // max(1, runs)

    def _sharded(self, need: Need, plan: Plan, sent: int) -> Need:
        """With parameters, gradients and state of the optimizer in equal parts over the groups.

        Of a layer that runs, FSDP2 has the parameters, those of the next, and the gradients; of what is in no layer it
        has parameters and gradients as long as the backward pass runs.
        """
        size, data = PRECISIONS[self.precision].itemsize, need.layout.data
        gathered = 4 if self.precision == "fp32" else 2  # bytes of a parameter of a layer, which bf16-mixed rounds
        sizes = {
            name: parameter.numel() // (plan.parts if name in plan.cuts else 1)
            for name, parameter in self.model.named_parameters()
        }
        inside: dict[str, int] = {}
        for path, module in self.model.named_modules():
            if isinstance(module, Layer):
                inside[path] = sum(count for name, count in sizes.items() if name.startswith(f"{path}."))
        largest, outside = max(inside.values(), default=0), sum(sizes.values()) - sum(inside.values())
        gathering = 2 * gathered * sum(inside.values()) + size * outside  # layers for both passes, the rest once
        return replace(
            need,
            parameters=-(-need.parameters // data),
            gradients=-(-need.gradients // data),
            optimizer=-(-need.optimizer // data),
            exchange=2 * gathered * largest + size * (largest + 2 * max(outside, 0)),
            sent=sent + int((gathering + need.gradients) * (data - 1) / data),
        )

    def smaller_batch(self, layout: Layout, batch: int, available: int) -> Need | None:
        """The need of the largest part of the batch that fits; None: not even one sequence for each group does."""
        wanted = rows = batch // layout.data
        least = self.need(layout, layout.data)
        if least.refused is not None or least.total > available:
            return None
        most = self.need(layout, rows * layout.data)
        each = max(1.0, (most.total - least.total) / max(1, rows - 1))
        rows = min(rows, 1 + int((available - least.total) / each))
        parts = [part for part in range(rows, 0, -1) if wanted % part == 0]
        needs = (self.need(layout, part * layout.data) for part in parts)
        return next((need for need in needs if need.total <= available), least)

    def more_devices(self, devices: int, batch: int, available: int, most: int = 4096) -> tuple[int, Need] | None:
        """The least multiple of the devices by a power of 2 with a layout that fits, and its need."""
        while (devices := 2 * devices) <= most:
            for layout in self.layouts(devices):
                need = self.need(layout, batch) if layout.tensor <= 8 else None
                if need is not None and need.refused is None and need.total <= available:
                    return devices, need
        return None

    @property
    def flops_per_token(self) -> float:
        """Operations of a forward and a backward pass for one token."""
        return (1 + BACKWARD) * self.model.flops_per_token(self.length)

    def _measured(self, rows: int, tensor: int, checkpointing: Checkpointing, tokens: bool) -> Memory:
        given = (self.recipe, self.precision, rows, self.length)
        if tensor == 1:
            return memory(*given, checkpointing=checkpointing)
        with _processes(tensor) as mesh:

            def split(model: Model) -> None:
                apply_plan(make_plan(model, tensor, tokens=tokens), model, mesh)

            return memory(*given, split, checkpointing)


@contextmanager
def _processes(count: int) -> Generator[DeviceMesh]:
    """A tensor-parallel group of processes that are not there: what they send is dropped."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    try:
        yield init_device_mesh("cpu", (1, count), mesh_dim_names=(DATA, TENSOR))
    finally:
        dist.destroy_process_group()


def step_seconds(plan: DevicePlan, batch: int, devices: int, peak: float, share: float) -> float:
    """Seconds for a step whose products take a share of the devices' peak operations per second."""
    return plan.flops_per_token * batch * plan.length / (devices * peak * share)
