"""From a recipe to a model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch.overrides import TorchFunctionMode

from blockformer.assembly.unused_keys import unused_keys, unused_paths
from blocks.models.base import Model
from registry import Recipe, RecipeError, load_recipe
from registry.recipe import Overrides
from registry.spec import Record


def check(recipe: Recipe) -> Model:
    """Build a recipe on the meta device: sizes are compared, parameters counted, nothing allocated.

    Raises:
        RecipeError: blocks do not fit each other, or keys change nothing; every such place is named.
    """
    record = Record()
    with torch.device("meta"), _Undrawn():
        model = cast("Model", recipe.build(record=record))
        if unused := unused_keys(recipe, record):
            raise RecipeError(unused)
    return model


def idle(recipe: Recipe) -> list[tuple[str | int, ...]]:
    """The paths of all keys for which :func:`check` would refuse the recipe because they change nothing.

    Raises:
        RecipeError: blocks do not fit each other.
    """
    record = Record()
    with torch.device("meta"), _Undrawn():
        recipe.build(record=record)
        return unused_paths(recipe, record)


class _Undrawn(TorchFunctionMode):
    """Leaves out torch's own initial values: they would be overwritten, and cost most of the time."""

    drawn = frozenset({torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.fill_, torch.Tensor.zero_})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.drawn or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def build(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    overrides: Overrides = (),
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Model:
    """A model with initial values.

    Args:
        recipe: a path, the bare name of an installed recipe, a mapping, or a loaded recipe.
        overrides: ``{"decoder.depth": 2}`` or ``["decoder.depth=2"]``; not with a loaded recipe.
        seed: of the initial values.
        device: where the parameters are.
        dtype: of the parameters; None: torch's default.

    Raises:
        RecipeError: something is wrong with the recipe; all of it is named.
    """
    loaded = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    model = check(loaded).to(dtype).to_empty(device=device)
    if torch.device(device).type != "meta":
        model.initialise(seed)
    return model
