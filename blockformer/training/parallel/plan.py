"""Tensor parallelism as blocks declare it: which parameters are split, and where processes communicate."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from blockformer.errors import UserError
from blockformer.training.parallel.collectives import reduce, spread
from blockformer.training.parallel.sequence import between_sublayers, divide_tokens
from blockformer.training.parallel.shards import TENSOR
from blocks.base import Component, Linear, LocalHeads
from registry import Cut, entry_of


@dataclass
class Plan:
    """How a model is split over a tensor-parallel group.

    Attributes:
        parts: number of processes in the group.
        cuts: by parameter name: the axis along which it is split.
        partial: unsplit parameters that each process applies to its own part only, so that their gradients are summed.
        boundaries: by module path: the modules around which processes communicate, and how they are split.
        cut: slots and names of blocks that are split.
        whole: slots and names of blocks whose parameters every process holds completely.
        tokens: whether each process keeps only its part of the tokens between sublayers.
    """

    parts: int
    cuts: dict[str, int] = field(default_factory=dict[str, int])
    partial: set[str] = field(default_factory=set[str])
    boundaries: dict[str, Cut] = field(default_factory=dict[str, Cut])
    cut: list[str] = field(default_factory=list[str])
    whole: list[str] = field(default_factory=list[str])
    tokens: bool = False

    def __str__(self) -> str:
        cut, whole = (", ".join(dict.fromkeys(names)) for names in (self.cut, self.whole))
        return f"tensor parallelism over {self.parts} processes: split: {cut}; replicated: {whole or 'nothing'}" + (
            "; tokens split between sublayers" if self.tokens else ""
        )


def make_plan(model: Component, parts: int, *, tokens: bool = False) -> Plan:
    """Plan how to split a model into ``parts``, and with ``tokens`` its sequences, too, from its shapes alone.

    Raises:
        UserError: a size that must be split is not a multiple of ``parts``, or no block can be split.
    """
    made = Plan(parts, tokens=tokens)
    if tokens:
        made.partial.update(between_sublayers(model))
    for path, component in model.components():
        for name, cut in component.shards().items():
            _add(made, _Place(component, path), name, cut)
    for path, component in model.components():
        own = [name for name in _own_parameters(component, path) if tokens or name not in made.partial]
        if own:
            (made.cut if any(name in made.cuts for name in own) else made.whole).append(_called(component))
    if not made.cuts:
        raise UserError(
            f"--trainer.strategy tensor_parallel: no block of this model can be split ({', '.join(made.whole)}); "
            "use fsdp2 to shard its parameters instead"
        )
    return made


@dataclass(frozen=True)
class _Place:
    """A block and its module path."""

    component: Component
    path: str

    def full(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name


def _add(made: Plan, place: _Place, name: str, cut: Cut) -> None:
    target = getattr(place.component, name)
    if isinstance(target, nn.Parameter):
        _cut(made, place, name, 0)
    elif cut == "between":
        for leaf, parameter in target.named_parameters(name):
            if parameter.ndim > 1:
                _cut(made, place, leaf, 0)  # each head has its own rows
            else:
                made.partial.add(place.full(leaf))
    else:
        made.boundaries[place.full(name)] = cut
        if cut == "rows" and not isinstance(target, Linear) and target.bias is not None:
            raise TypeError(f"{place.full(name)} is split by rows and has a bias: make it a blocks.base.Linear")
        if isinstance(target, nn.Linear) and cut != "common":
            _cut(made, place, f"{name}.weight", -2 if cut == "columns" else -1)
            if cut == "columns" and isinstance(target.bias, nn.Parameter):
                _cut(made, place, f"{name}.bias", -1)
            if isinstance(target, Linear) and target.adapter is not None:
                _add_adapter(made, place, f"{name}.adapter", target.adapter.cuts(cut))


def _add_adapter(made: Plan, place: _Place, name: str, cuts: Mapping[str, int | None]) -> None:
    for leaf, axis in cuts.items():
        if axis is None:
            made.partial.add(place.full(f"{name}.{leaf}"))
        else:
            _cut(made, place, f"{name}.{leaf}", axis)


def _cut(made: Plan, place: _Place, name: str, axis: int) -> None:
    """Record the split of a parameter, after checking that it does not split a head."""
    along = place.component.axes().get(name)
    known = along[axis] if along else None
    size = place.component.get_parameter(name).shape[axis] if known is None else known.size
    if size % made.parts:
        what = "channels" if known is None else known.title
        raise UserError(
            f"--trainer.strategy tensor_parallel: {place.full(name)} has {size} {what}, which is not a multiple of the "
            f"{made.parts} processes: change the recipe, or use fewer processes"
        )
    made.cuts[place.full(name)] = axis


def _own_parameters(component: Component, path: str) -> Iterator[str]:
    """Names of the parameters that belong to a block itself and not to a child block."""
    inner = tuple(f"{name}." for name, part in component.components() if part is not component)
    for name, _ in component.named_parameters():
        if not name.startswith(inner):
            yield f"{path}.{name}" if path else name


def _called(component: Component) -> str:
    return f"{component.slot} {entry_of(type(component)).name}"


def apply_plan(made: Plan, model: Component, mesh: DeviceMesh) -> None:
    """Replace parameters by uninitialised parts, and add the communication between processes."""
    group, index = mesh[TENSOR].get_group(), mesh[TENSOR].get_local_rank()
    for name, axis in made.cuts.items():
        path, _, leaf = name.rpartition(".")
        owner, whole = model.get_submodule(path), model.get_parameter(name)
        part = torch.empty_like(whole.chunk(made.parts, axis)[0], memory_format=torch.contiguous_format)
        owner.register_parameter(leaf, nn.Parameter(part, requires_grad=whole.requires_grad))
    for path, cut in made.boundaries.items():
        _meet(model.get_submodule(path), cut, made.parts, group, index)
    if made.tokens:
        divide_tokens(model, group)


def _meet(module: nn.Module, cut: Cut, parts: int, group: ProcessGroup, index: int) -> None:
    def spread_given(_: Any, given: Any) -> Any:
        return (spread(given[0], group), *given[1:])

    def spread_result(_: Any, given: Any, result: Tensor) -> Tensor:
        return spread(result, group)

    def own_result(_: Any, given: Any, result: Tensor) -> Tensor:
        return spread(result, group).chunk(parts, 1)[index]

    def joined_result(_: Any, given: Any, result: Tensor) -> Tensor:
        return reduce(result, group)

    if isinstance(module, LocalHeads):
        module.register_forward_hook(own_result)
    elif cut == "columns":
        module.register_forward_pre_hook(spread_given)
    elif cut == "common":
        module.register_forward_hook(spread_result)
    elif isinstance(module, Linear):
        module.reduce = lambda x: reduce(x, group)  # before it adds its bias
    else:
        module.register_forward_hook(joined_result)
