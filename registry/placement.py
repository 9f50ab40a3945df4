"""Whether blocks can stand where a recipe puts them, and what could stand there instead."""

from collections.abc import Callable, Iterator
from typing import Any

from registry.capabilities import UnfitError
from registry.registration import Block, entries
from registry.spec import Spec
from registry.strict_yaml import dotted

Path = tuple[str | int, ...]
Fits = Callable[[type[Block]], bool]


def misplaced(root: Spec[Any]) -> Iterator[tuple[Path, str]]:
    """Every block that needs of the one around it what that does not do: its key path, and what to say about it."""
    for path, spec in root.walk():
        offers = spec.entry.block.capabilities.positions
        for key, child in spec.children():
            needs = child.entry.block.capabilities.needs
            if needs <= offers:
                continue
            what = f"acts by {' and '.join(sorted(needs))}, which {_called(spec, path)} does not apply"
            homes = _homes(root, child)
            instead = choice(child.entry.slot, lambda block, offers=offers: block.capabilities.needs <= offers)
            yield path + key, f"{child.entry.slot} {child.entry.name!r} {what}; {instead}{homes}"


def unfit(root: Spec[Any], spec: Spec[Any], error: UnfitError) -> str:
    """What to say about a block that cannot do what its place asks of it."""
    asking = (_called(parent, at) for at, parent in root.walk() for _, child in parent.children() if child is spec)
    asks = ", ".join([str(error), *(f"as {parent} needs it to" for parent in asking)])
    return f"{spec.entry.slot} {spec.entry.name!r} {asks}; {choice(spec.entry.slot, error.fits)}"


def _called(spec: Spec[Any], path: Path) -> str:
    return f"{spec.entry.slot} {spec.entry.name!r}" + (f" ({dotted(path)})" if path else "")


def choice(slot: str, fits: Fits) -> str:
    """What to choose for a slot, of the blocks that fit."""
    names = sorted(name for name, entry in entries(slot).items() if fits(entry.block))
    return f"choose {' or '.join(names)}" if names else f"no {slot} that is registered can stand there"


def _homes(root: Spec[Any], child: Spec[Any]) -> str:
    """Where else in the recipe the block could stand."""
    needs, slot = child.entry.block.capabilities.needs, child.entry.slot
    found = [
        (*path, name)
        for path, spec in root.walk()
        for name, parameter in spec.entry.parameters.items()
        if parameter.slot == slot and needs <= spec.entry.block.capabilities.positions
    ]
    return f", or say it under {dotted(found[0])!r}" if found else ""
