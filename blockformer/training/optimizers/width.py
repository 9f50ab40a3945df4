"""Learning rates at another width than the base width of a model's init."""

from collections.abc import Mapping
from typing import cast

from blockformer.errors import UserError
from blockformer.training.optimizers.base import OptimizerComponent
from blocks.base import Component, WidthMultipliers
from blocks.init.width import width_multipliers
from blocks.models.base import Model
from registry import entries, entry_of


def widths_of(model: Component) -> Mapping[str, WidthMultipliers]:
    """By parameter; empty where the model's init has no base width."""
    return width_multipliers(model) if isinstance(model, Model) and model.init.base_width is not None else {}


def width_factor(optimizer: OptimizerComponent, width: WidthMultipliers | None, *, matrix: bool) -> float:
    """The factor on a parameter's learning rate; 1 where the init has no base width.

    Raises:
        UserError: the optimizer has no rule for it.
    """
    factor = 1.0 if width is None else optimizer.width_factor(width, matrix=matrix)
    if factor is None:
        blocks = {name: cast("type[OptimizerComponent]", one.block) for name, one in entries("optimizer").items()}
        others = [name for name, block in blocks.items() if block.width_factor != OptimizerComponent.width_factor]
        raise UserError(
            f"optimizer.type {entry_of(type(optimizer)).name}: has no rule for the learning rates of a model whose init"
            f" has a base_width; use {', '.join(others)}, or another init"
        )
    return factor
