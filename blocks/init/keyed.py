"""Initial values that depend on (seed, parameter name) only.

If one block changes, all other parameters keep bit-identical initial values, so that variants can be compared. Values
are drawn in float32 on the CPU and do not depend on device, dtype or sharding.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Generator, Tensor, nn

from blocks.base import Component, Init, Role, WidthMultipliers
from blocks.init.width import width_multipliers


@torch.no_grad()
def initialise(model: nn.Module, init: Init, seed: int) -> None:
    """Fill every parameter of ``model``: as its block declares, with 0 for a bias, else by ``init``."""
    parameters = dict(model.named_parameters())
    for name, value in initial_values(model, init, seed):
        parameters[name].copy_(value)


def initial_values(model: nn.Module, init: Init, seed: int) -> Iterator[tuple[str, Tensor]]:
    """The names and values for :func:`initialise`, one at a time; ``model`` may be on meta.

    Raises:
        UndeclaredAxesError: values depend on the width, and blocks do not declare the axes of all parameters.
    """
    widths = {} if init.base_width is None else width_multipliers(model)
    owners = dict(cast("Iterator[tuple[str, nn.Module]]", model.named_modules()))
    for name, parameter in model.named_parameters():
        path, constant = name.rpartition(".")[0], _constant(owners, name)
        value = torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
        if constant is not None:
            value.copy_(torch.tensor(constant, device="cpu"))
        elif (deviation := _own_deviation(owners, name)) is not None:
            value.normal_(0.0, deviation, generator=generator(seed, name))
        else:
            _draw(init, value, name, _role(owners, path), _depth(owners, path), seed, widths.get(name))
        yield name, value


def deviations(model: nn.Module, init: Init) -> dict[str, float]:
    """The standard deviations of the initial values that are drawn, by parameter.

    Raises:
        UndeclaredAxesError: as for :func:`initial_values`.
    """
    widths = {} if init.base_width is None else width_multipliers(model)
    owners = dict(cast("Iterator[tuple[str, nn.Module]]", model.named_modules()))
    found: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        if (own := _own_deviation(owners, name)) is not None:
            found[name] = own
        elif _constant(owners, name) is None:
            path = name.rpartition(".")[0]
            drawn = (parameter.shape, _role(owners, path), _depth(owners, path))
            width = widths.get(name)
            found[name] = init.deviation(*drawn) * (1.0 if width is None else init.width_factor(*drawn, width))
    return found


def _constant(owners: dict[str, nn.Module], name: str) -> float | Sequence[float] | None:
    """The initial value that a parameter's block gives; None: the init draws it."""
    path, _, leaf = name.rpartition(".")
    owner = owners[path]
    return owner.constants().get(leaf) if isinstance(owner, Component) else 0.0 if leaf == "bias" else None


def _own_deviation(owners: dict[str, nn.Module], name: str) -> float | None:
    """The standard deviation that a parameter's block gives; None: the init draws it."""
    path, _, leaf = name.rpartition(".")
    owner = owners[path]
    return owner.deviations().get(leaf) if isinstance(owner, Component) else None


def _draw(
    init: Init, value: Tensor, name: str, role: Role, depth: int, seed: int, width: WidthMultipliers | None
) -> None:
    try:
        init.draw(value, role, depth, generator(seed, name))
        if width is not None and (factor := init.width_factor(value.shape, role, depth, width)) != 1.0:
            value.mul_(factor)
    except ValueError as error:
        what = f"{name}, of the shape {tuple(value.shape)}, cannot be drawn by {type(init).__name__}: {error}"
        raise ValueError(f"{what}; give its initial value in constants() of its block") from None


def generator(seed: int, name: str) -> Generator:
    """A CPU generator seeded by (seed, name)."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)


def _role(owners: dict[str, nn.Module], path: str) -> Role:
    if isinstance(owners[path], nn.Embedding):
        return "embedding"
    parent, _, child = path.rpartition(".")
    above = owners[parent]
    return "output" if isinstance(above, Component) and child in above.outputs else "matrix"


def _depth(owners: dict[str, nn.Module], path: str) -> int:
    """The depth of the stack around a parameter, from the nearest block with a site."""
    while path:
        owner = owners[path]
        if isinstance(owner, Component) and owner.site is not None:
            return owner.site.depth
        path = path.rpartition(".")[0]
    return 1
