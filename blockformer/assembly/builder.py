"""Build a model from a recipe: on the meta device to check it, or with initial values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from blockformer.assembly.free_memory import require_free
from blockformer.assembly.unused_keys import unused_keys, unused_paths
from blocks.init.width import UndeclaredAxesError, width_multipliers
from blocks.models.base import Model
from registry import Recipe, RecipeError, load_recipe
from registry.recipe import Overrides
from registry.spec import Record

RecipeLike = str | Path | Mapping[str, Any] | Recipe


def build(
    recipe: RecipeLike,
    overrides: Overrides = (),
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Model:
    """Build a model with initial values.

    Args:
        recipe: a path, the name of a built-in recipe, a mapping, or a loaded recipe.
        overrides: ``{"decoder.depth": 2}`` or ``["decoder.depth=2"]``; not allowed with a loaded recipe.
        seed: seed of the initial values.
        device: device of the parameters.
        dtype: dtype of the parameters; None: torch's default.

    Raises:
        RecipeError: the recipe is not valid; the error lists all problems.
        ValueError: there are overrides of a loaded recipe, or a block has a buffer that was created on the meta device
            and so has no values.
    """
    model = check(recipe, overrides).to(dtype)
    if torch.device(device).type != "meta":
        materialise(model, device)
        model.initialise(seed)
    return model


def check(recipe: RecipeLike, overrides: Overrides = ()) -> Model:
    """Build a recipe's model on the meta device, which checks all sizes without allocating memory.

    Args:
        recipe: a path, the name of a built-in recipe, a mapping, or a loaded recipe.
        overrides: as of :func:`build`.

    Raises:
        RecipeError: blocks do not fit each other, a key changes nothing, or initial values depend on the width, and
            blocks do not declare the axes of their parameters; the error lists all problems.
        ValueError: there are overrides of a loaded recipe.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    elif overrides:
        raise ValueError("the recipe is loaded already; give the overrides to load_recipe")
    record = Record()
    with torch.device("meta"), SkipMetaInit():
        model = cast("Model", recipe.build(record=record))
        if unused := unused_keys(recipe, record):
            raise RecipeError(unused)
    if model.init.base_width is not None:
        try:
            width_multipliers(model)
        except UndeclaredAxesError as error:
            raise RecipeError([recipe.problem(("init",), f"{error}; or choose an init without base_width")]) from None
    return model


def build_unchecked(recipe: Recipe) -> Model:
    """Build another model on the meta device from a recipe that :func:`check` has accepted."""
    with torch.device("meta"), SkipMetaInit():
        return cast("Model", recipe.build())


def keys_without_effect(recipe: Recipe) -> list[tuple[str | int, ...]]:
    """The paths of all keys that :func:`check` rejects because they change nothing.

    Raises:
        RecipeError: blocks do not fit each other.
    """
    record = Record()
    with torch.device("meta"), SkipMetaInit():
        recipe.build(record=record)
        return unused_paths(recipe, record)


def materialise(model: Model, device: torch.device | str) -> None:
    """Allocate the parameters that are on the meta device, uninitialised; move all other tensors to ``device``.

    Raises:
        ValueError: a buffer is on the meta device: nothing would give it values later.
        TooLargeError: the parameters do not fit into the free memory.
    """
    for name, buffer in model.named_buffers():
        if buffer.is_meta:
            raise ValueError(
                f"{name}: this buffer was created on the meta device, so its values are lost; create it with "
                "device='cpu', compute it in each forward, or make it a parameter that constants() names"
            )

    needed = sum(one.numel() * one.element_size() for one in model.parameters() if one.is_meta)
    require_free(needed, f"a model of {model.size:,} parameters", device)

    def allocated(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device)

    model._apply(allocated)


class SkipMetaInit(TorchFunctionMode):
    """Skip the initialisation of meta tensors: it has no effect and takes most of the time of a build."""

    SKIPPED = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.SKIPPED or getattr(func, "__module__", "") == "torch.nn.init":
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)
