"""What an init with a base width and the optimizers do to each parameter at this width."""

from dataclasses import asdict, dataclass
from typing import Any

from blockformer.training.optimizers.adamw import AdamW
from blockformer.training.optimizers.sgd import SGD
from blocks.init.keyed import deviations
from blocks.init.width import width_multipliers
from blocks.models.base import Model

OPTIMIZERS = {"adamw": AdamW(), "sgd": SGD()}


@dataclass(frozen=True)
class ParameterWidth:
    """One parameter at this width.

    Attributes:
        base_shape: its shape at the base width.
        deviation: standard deviation of its initial values; None: they are not drawn.
        rates: factors on its learning rate, by optimizer.
    """

    base_shape: tuple[int, ...]
    deviation: float | None
    rates: dict[str, float]


def parameter_widths(model: Model) -> dict[str, ParameterWidth]:
    """By name, for a model whose init has a base width."""
    drawn, shapes = deviations(model, model.init), {name: one.shape for name, one in model.named_parameters()}
    return {
        name: ParameterWidth(
            width.base_shape(shapes[name]),
            drawn.get(name),
            {kind: optimizer.width_factor(width, matrix=False) for kind, optimizer in OPTIMIZERS.items()},
        )
        for name, width in width_multipliers(model).items()
    }


def width_facts(model: Model) -> dict[str, Any]:
    """The same as plain data."""
    widths = {name: asdict(one) for name, one in parameter_widths(model).items()}
    return {"base_width": model.init.base_width, "multiplier": model.width_multiplier, "parameters": widths}


def width_lines(model: Model) -> list[tuple[str, str]]:
    """What happens to the parameters, and the names of those that it happens to, with * for the number of a layer."""
    groups: dict[str, list[str]] = {}
    for name, one in parameter_widths(model).items():
        rates = ", ".join(f"{kind} lr x {rate:.3g}" for kind, rate in one.rates.items())
        treated = rates if one.deviation is None else f"std {one.deviation:.3g}, {rates}"
        pattern = ".".join("*" if part.isdigit() else part for part in name.split("."))
        shown = f"{pattern} ({' x '.join(map(str, one.base_shape))})"
        names = groups.setdefault(treated, [])
        names += [] if shown in names else [shown]
    return [(treated, ", ".join(names)) for treated, names in groups.items()]
