"""Resize a trained tensor to the shape of a new parameter."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from blockformer.assembly.warm_start.name_map import Declared, declared
from blocks.base import Axis, Change, Experts, ResizeContext
from blocks.models.base import Model

NOISE = 0.01
"""Factor on the initial value that is added to the mean of the old entries, so that new entries differ."""


@dataclass
class Resizer:
    """Resizes tensors of a trained model along the axes that both models declare.

    Args:
        new: the new model, with initial values.
        old: the trained model.
        tokens: as for :class:`~blocks.base.ResizeContext`.
    """

    new: Model
    old: Model
    tokens: Tensor | None = None
    _here: Mapping[str, Declared] = field(init=False)
    _there: Mapping[str, Declared] = field(init=False)

    def __post_init__(self) -> None:
        self._here, self._there = declared(self.new), declared(self.old)

    def adapted(self, name: str, origin: str) -> tuple[Tensor, str] | None:
        """The value for the new parameter ``name`` from the old parameter ``origin``, and a description of the change.

        None if the shapes cannot be reconciled.
        """
        cold, trained = self.new.get_parameter(name).detach(), self.old.get_parameter(origin).detach()
        here = self._here[name].axes if name in self._here else (None,) * cold.ndim
        there = self._there[origin].axes if origin in self._there else (None,) * trained.ndim
        if cold.ndim == trained.ndim + 1 and isinstance(here[0], Experts):
            trained, there = trained[None], (Experts(1), *there)
        if cold.ndim != trained.ndim:
            return None
        changes: list[Change | None] = []
        for dimension, (now, before) in enumerate(zip(here, there, strict=True)):
            change = self._change(origin, now, before)
            if change is None and (type(now) is type(before) and now is not None):
                return None
            if change is None and cold.shape[dimension] != trained.shape[dimension]:
                return None
            changes.append(change)
        description = "; ".join(change.description for change in changes if change is not None and change.description)
        return (_changed(trained, cold, changes) if description else trained), description

    def _change(self, origin: str, now: Axis | None, before: Axis | None) -> Change | None:
        if now is None or before is None or type(now) is not type(before):
            return None
        kind = type(now)
        return now.change(before, ResizeContext(self.tokens, lambda: self._importance(self._there[origin].owner, kind)))

    def _importance(self, owner: str, kind: type[Axis]) -> Tensor:
        """(entries,) sum over a block's matrices of the log squared norm of each entry's slice."""
        norms: list[Tensor] = []
        for name, one in self._there.items():
            places = [place for place, axis in enumerate(one.axes) if isinstance(axis, kind)]
            matrix = sum(not isinstance(axis, Experts) for axis in one.axes) > 1
            if one.owner == owner and places and matrix:
                axis = one.axes[places[0]]
                assert axis is not None
                weight = self.old.get_parameter(name).detach().float().movedim(places[0], 0)
                norms.append(weight.reshape(axis.size, -1).square().sum(1))
        return torch.stack(norms).log().sum(0)


def _changed(trained: Tensor, cold: Tensor, changes: list[Change | None]) -> Tensor:
    value = trained.to(cold.device, torch.promote_types(trained.dtype, torch.float32))
    fresh = torch.zeros_like(cold, dtype=torch.bool)
    for dimension, change in enumerate(changes):
        if change is None or not change.description:
            continue
        value, missing = _along(value + change.shift, dimension, change)
        if change.fill == "zero":
            value = value.masked_fill(missing, 0.0)
        elif change.fill == "fresh":
            fresh = fresh | missing
        else:
            value = torch.where(missing, value + NOISE * cold, value)
    return torch.where(fresh, cold.to(value.dtype), value)


def _along(value: Tensor, dimension: int, change: Change) -> tuple[Tensor, Tensor]:
    """The value resized along one dimension, new entries set to the mean of the old, and a mask of the new entries."""
    split = cast("Tensor", value.unflatten(dimension, (-1, change.each)))
    sources = change.sources.to(value.device)
    known = sources.clamp(min=0)
    picked = split.index_select(dimension, known.flatten())
    picked = picked.view(*split.shape[:dimension], *known.shape, *split.shape[dimension + 1 :])
    made = picked.mean(dimension + 1) if known.shape[1] > 1 else picked.squeeze(dimension + 1)
    missing = (sources[:, 0] < 0).view(-1, *(1,) * (made.ndim - dimension - 1))
    if bool(missing.any()):
        used = sources[sources >= 0]
        mean = split.index_select(dimension, used).mean(dimension, keepdim=True) if len(used) else made.new_zeros(())
        made = torch.where(missing, mean, made)
    whole = missing.flatten().repeat_interleave(change.each).view(-1, *(1,) * (value.ndim - dimension - 1))
    return made.flatten(dimension, dimension + 1), whole
