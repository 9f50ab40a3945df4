"""The options `--optimizer.*`: the optimizer, its schedule, and which parameters are treated how."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from blockformer.assembly.checkpoint import PREFIX
from blockformer.errors import UserError
from blockformer.option_groups import OptionGroup
from blockformer.training.optimizers.base import COMMON, Group, OptimizerComponent, Schedule, Sharding
from blockformer.training.optimizers.trained_parameters import choose_trained, similar
from blockformer.training.optimizers.width import width_factor, widths_of
from blockformer.training.parallel.shards import Shards
from blocks.base import Adapter, Component, Vocabulary
from blocks.init.width import is_vector

OPTIMIZER = OptionGroup(
    "optimizer", {"type": OptimizerComponent.slot.name, "schedule": Schedule.slot.name}, COMMON, UserError
)
LARGEST = torch.finfo(torch.float32).max


class ParameterGroup(BaseModel):
    """Parameters with a learning rate or decay of their own, by their names or by the slot of the block that has them.

    Args:
        match: names, with `*` for any text: `decoder.layers.0.*`.
        slot: a slot, such as `norm` or `embedding`.
        lr: peak learning rate; null: that of the others.
        weight_decay: for all of these parameters, vectors too; null: as for the others.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    match: str | None = None
    slot: str | None = None
    lr: Annotated[float, Field(gt=0, le=LARGEST)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "ParameterGroup":
        if (self.match is None) == (self.slot is None):
            raise ValueError("needs either match or slot")
        if self.lr is None and self.weight_decay is None:
            raise ValueError("needs lr or weight_decay")
        return self

    def __str__(self) -> str:
        return f"slot {self.slot}" if self.match is None else repr(self.match)


GROUPS = TypeAdapter(list[ParameterGroup])


def chosen_components(given: Mapping[str, Any]) -> dict[str, str]:
    """The names of the optimizer and the schedule that settings choose; without a schedule the optimizer's default.

    Raises:
        UserError: there is no such optimizer or schedule.
    """
    kind = given.get("type") or "adamw"
    optimizer = cast("type[OptimizerComponent]", OPTIMIZER.entry("type", kind).block)
    schedule = given.get("schedule") or optimizer.default_schedule
    OPTIMIZER.entry("schedule", schedule)
    return {"type": kind, "schedule": schedule}


class OptimizerSettings:
    """The optimizer and the schedule of its learning rate: the options `--optimizer.*`.

    Args:
        type: Name of a registered optimizer; see `blockformer blocks optimizer`.
        lr: Peak learning rate, reached at the end of the warm-up.
        weight_decay: Decoupled weight decay of matrices, embeddings included; at most 1, or 1 / lr. Vectors, biases and
            norm parameters never decay, not even where those of many experts are stored in one tensor.
        schedule: Name of a registered schedule; see `blockformer blocks schedule`; null: cosine, or what the optimizer
            needs.
        warmup_steps: Optimizer steps over which the learning rate rises linearly from 0.
        groups: Parameters with an lr or weight_decay of their own: [{match: "embedding.*", lr: 1e-4}, {slot: norm,
            weight_decay: 0.1}]; the first that a parameter belongs to counts.
        train: Names of the only parameters that are trained, with * for any text; those of adapters are always among
            them. Null: all, but in a model with adapters only theirs.
        freeze: Names of parameters that are not trained, with * for any text.
        ema: Decay of a running mean of the weights, such as 0.999, for validations and checkpoints; null: disabled.
        options: The parameters of the optimizer and the schedule, such as `beta1`.

    Raises:
        UserError: a value is out of range, or nothing reads it; all such values are named.
    """

    def __init__(
        self,
        type: str = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        schedule: str | None = None,
        warmup_steps: int = 100,
        groups: list[dict[str, Any]] | None = None,
        train: list[str] | None = None,
        freeze: list[str] | None = None,
        ema: float | None = None,
        **options: Any,
    ) -> None:
        chosen = chosen_components({"type": type, "schedule": schedule})
        problems = list(_out_of_range(lr, weight_decay, warmup_steps, ema))
        self.groups, wrong = _read_groups(groups or [])
        if problems + wrong:
            raise UserError("; ".join(problems + wrong))
        made = OPTIMIZER.make(chosen, options)
        self.optimizer: OptimizerComponent = made["type"]
        self.schedule: Schedule = made["schedule"]
        self.type, self.schedule_name = type, chosen["schedule"]
        entries = [OPTIMIZER.entry(option, name) for option, name in chosen.items()]
        self._options = {one: options.get(one, of.default) for entry in entries for one, of in entry.parameters.items()}
        self.lr, self.weight_decay, self.warmup_steps = lr, weight_decay, warmup_steps
        self.train = None if train is None else tuple(train)
        self.freeze, self.ema = tuple(freeze or ()), ema
        allowed = self.optimizer.schedules
        if allowed is not None and self.schedule_name not in allowed:
            raise UserError(
                f"optimizer.schedule {self.schedule_name}: optimizer {type!r} works with {' or '.join(allowed)}"
            )

    def as_dict(self) -> dict[str, Any]:
        """All settings by name, as plain data."""
        common = {"type": self.type, "lr": self.lr, "weight_decay": self.weight_decay, "schedule": self.schedule_name}
        common |= {"warmup_steps": self.warmup_steps, "train": None if self.train is None else list(self.train)}
        common |= {"freeze": list(self.freeze), "ema": self.ema}
        groups = [group.model_dump(exclude_none=True) for group in self.groups]
        return {**common, "groups": groups, **self._options}

    def factor(self, step: int, total: int) -> float:
        """The learning rate of one optimizer step as a share of its peak.

        A pure function of the step, so a continued run needs no stored state.

        Args:
            step: number of the optimizer step, from 1, so that no step has a rate of 0.
            total: optimizer steps of the whole run; 0: not known.
        """
        if step < self.warmup_steps:
            return step / self.warmup_steps
        return self.schedule.factor(step, self.warmup_steps, total)

    def choose_trained(self, model: Component) -> None:
        """Exclude parameters from training, as `train` and `freeze` say; see :func:`choose_trained`."""
        choose_trained(model, self.train, self.freeze)

    def parameter_groups(self, model: Component) -> list[Group]:
        """The parameter groups of an optimizer: by learning rate, decay, and whether they are hidden matrices.

        Matrices decay; vectors, scalars, biases and norms do not. Embeddings count as matrices, as in GPT-3. The
        stacked biases of experts have two dimensions and still are biases. Tied parameters appear once.

        Where the model's init has a base width, learning rates are those at that width, and are scaled by the rule of
        the optimizer for this width; a step removes the same share of a weight at all widths.

        Raises:
            UserError: one of `groups` matches no parameter, or the model's init has a base width, and the optimizer has
                no rule for other widths.
        """
        made: dict[tuple[Any, ...], Group] = {}
        vocabulary, slots = _vocabulary(model), _slots(model)
        widths = widths_of(model)
        used: set[int] = set()
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            own = next((n for n, group in enumerate(self.groups) if _belongs(group, name, slots[name])), None)
            used |= set() if own is None else {own}
            lr, decay = self._rates(own, vector=is_vector(model, name, parameter))
            matrix = self.optimizer.splits_matrices and _is_hidden_matrix(model, name, parameter, vocabulary)
            factor = width_factor(self.optimizer, widths.get(name), matrix=matrix)
            lr, decay = lr * factor, decay / factor
            group = {"lr": lr, "peak": lr, "weight_decay": decay, "matrix": matrix}
            if matrix and name in widths:  # older checkpoints, which are compared with this, do not have the key
                group["width"] = widths[name].fan_out, widths[name].fan_in
            key = (own, *group.items())
            made.setdefault(key, {"params": [], **group})
            made[key]["params"].append(parameter)
        for number, group in enumerate(self.groups):
            if number not in used:
                raise UserError(f"optimizer.groups: {_why_unused(group, model, slots)}")
        return sorted(made.values(), key=lambda group: group["weight_decay"] == 0)

    def _rates(self, own: int | None, *, vector: bool) -> tuple[float, float]:
        """Peak learning rate and decay of a parameter of the group of this number."""
        group = None if own is None else self.groups[own]
        lr = self.lr if group is None or group.lr is None else group.lr
        usual = 0.0 if vector else self.weight_decay
        return lr, usual if group is None or group.weight_decay is None else group.weight_decay

    def make(self, model: Component, *, fused: bool, shards: Shards | None = None) -> Optimizer:
        """The optimizer of the parameters that are trained.

        Args:
            model: the model.
            fused: use torch's fused kernels, where the optimizer has them.
            shards: how the parameters are sharded; None: this process has them.

        Raises:
            UserError: one of `groups` matches no parameter, or the optimizer needs whole parameters, and they are
                sharded.
        """
        sharding = Sharding()
        if shards is not None:
            if not self.optimizer.elementwise:
                raise UserError(f"optimizer.type {self.type}: does not work with sharded parameters; use ddp")
            names: dict[Tensor, str] = {one: PREFIX + name for name, one in model.named_parameters()}
            sharding = Sharding(
                lambda parameter, tensor: shards.whole(names[parameter], tensor),
                lambda parameter, tensor: shards.part(names[parameter], tensor, parameter),
            )
        return self.optimizer.make(self.parameter_groups(model), fused=fused, sharding=sharding)

    def apply(self, optimizer: Optimizer, model: Component) -> None:
        """Overwrite the settings that were restored with an optimizer's state; its moments stay.

        Otherwise a continued run would ignore the settings that the user gives now.
        """
        fresh = self.make(model, fused=any(group.get("fused") for group in optimizer.param_groups))
        for group, new in zip(optimizer.param_groups, fresh.param_groups, strict=True):
            group.update({key: value for key, value in new.items() if key != "params"})


def _out_of_range(lr: float, weight_decay: float, warmup_steps: int, ema: float | None) -> list[str]:
    removed = lr * weight_decay  # the share of each weight that a step at the peak removes
    fits = {
        f"lr must be above 0 and at most {LARGEST:.2g}, not {lr}": 0 < lr <= LARGEST,
        f"weight_decay must be from 0 to max(1, 1 / lr), not {weight_decay}": weight_decay >= 0
        and (weight_decay <= 1 or removed <= 1),
        f"warmup_steps must be a number of steps from 0, not {warmup_steps}": 0 <= warmup_steps < 2**63,
        f"ema must be above 0 and below 1, not {ema}": ema is None or 0 < ema < 1,
    }
    wrong = [f"optimizer: {what}" for what, right in fits.items() if not right]
    if removed > 1 and weight_decay > 1:
        wrong.append("lr * weight_decay, the share of a weight that a step removes, must not be above 1")
    return wrong


def _read_groups(groups: Sequence[Mapping[str, Any]]) -> tuple[list[ParameterGroup], list[str]]:
    try:
        return GROUPS.validate_python(groups), []
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return [], [
            f"optimizer.groups.{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix('Value error, ').lower()}"
            for one in found
        ]


def _belongs(group: ParameterGroup, name: str, slots: frozenset[str]) -> bool:
    return fnmatchcase(name, group.match) if group.match is not None else group.slot in slots


def _why_unused(group: ParameterGroup, model: Component, slots: Mapping[str, frozenset[str]]) -> str:
    """Why no trained parameter is of a group."""
    own = [one for name, one in model.named_parameters() if _belongs(group, name, slots[name])]
    if any(parameter.requires_grad for parameter in own):
        return (
            f"all parameters of {group} belong to a group before it, and the first one counts; name it before that one"
        )
    if own:
        return f"no parameter of {group} is trained; remove the group, or train them"
    if group.slot is not None:
        return f"no parameter belongs to {group}; known: {', '.join(sorted(set[str]().union(*slots.values())))}"
    return f"no parameter belongs to {group}{similar(slots)}"


def _slots(model: Component) -> dict[str, frozenset[str]]:
    """For each parameter the slots of the blocks that it lies in."""
    inside: dict[str, set[str]] = {name: set() for name, _ in model.named_parameters()}
    for path, block in model.components():
        for name, _ in block.named_parameters():
            if (full := f"{path}.{name}" if path else name) in inside:
                inside[full].add(block.slot.name)
    return {name: frozenset(slots) for name, slots in inside.items()}


def _vocabulary(model: Component) -> set[str]:
    """Names of the parameters with an axis of token ids."""
    return {
        f"{path}.{name}" if path else name
        for path, block in model.components()
        for name, axes in block.axes().items()
        if any(isinstance(axis, Vocabulary) for axis in axes)
    }


def _is_hidden_matrix(model: nn.Module, name: str, parameter: Tensor, vocabulary: set[str]) -> bool:
    """Whether a parameter is the matrix of a projection inside the layers, or of its adapter, or those of experts."""
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    projection = isinstance(owner, Adapter) or (leaf == "weight" and isinstance(owner, nn.Linear))
    return projection and parameter.ndim >= 2 and name not in vocabulary
