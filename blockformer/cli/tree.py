"""A model as rows of text: every block with its settings, every tensor with its shape, identical layers folded."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import nn

from blockformer.assembly.descriptions import name_of, settings
from blocks.base import Component
from blocks.models.base import Model
from registry import entry_of, spec_of
from registry.text import ranges


@dataclass(frozen=True)
class Row:
    """One line: depth of indentation, name, settings or shape, number of parameters."""

    depth: int
    name: str
    detail: str
    parameters: str


def rows(model: Model) -> list[Row]:
    """The whole model from top to bottom."""
    return list(_component("", model, 0))


def _component(label: str, component: Component, depth: int) -> Iterator[Row]:
    """A line for the block, then its tensors and blocks."""
    name = entry_of(type(component)).name
    size = sum(parameter.numel() for parameter in component.parameters())
    yield Row(depth, f"{label}: {name}" if label else name, settings(spec_of(component)), f"{size:,}" if size else "")
    yield from _contents("", component, component, depth + 1)


def _contents(prefix: str, module: nn.Module, owner: Component, depth: int) -> Iterator[Row]:
    """The tensors and blocks in a module, in the order of their creation; a plain module is a prefix of the names."""
    for name, parameter in module.named_parameters(recurse=False):
        yield Row(depth, prefix + name, " x ".join(map(str, parameter.shape)), f"{parameter.numel():,}")
    for name, child in module.named_children():
        if isinstance(child, Component):
            yield from _component(prefix + name, child, depth)
        elif isinstance(child, nn.ModuleList) and all(isinstance(item, Component) for item in child):
            yield from _folded(prefix + name, [item for item in child if isinstance(item, Component)], owner, depth)
        else:
            yield from _contents(f"{prefix}{name}.", child, owner, depth)


def _folded(label: str, items: list[Component], owner: Component, depth: int) -> Iterator[Row]:
    """A list of blocks; identical ones share their lines."""
    groups: dict[tuple[Row, ...], list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(tuple(_component("", item, depth)), []).append(index)
    for (first, *rest), indices in groups.items():
        called = name_of(owner, items[indices[0]])
        which = f"{ranges(indices)} ({called})" if called else ranges(indices)
        times = f"{len(indices)} x " if len(indices) > 1 and first.parameters else ""
        name = f"{label} {which}: {first.name}"
        yield from (replace(first, name=name, parameters=times + first.parameters), *rest)


def aligned(lines: list[Row]) -> Iterator[tuple[str, str, str]]:
    """The three columns of every row, padded to equal widths."""
    names = [f"{'  ' * row.depth}{row.name}" for row in lines]
    wide = max(len(name) for name in names)
    middle = max(len(row.detail) for row in lines)
    right = max(len(row.parameters) for row in lines)
    for name, row in zip(names, lines, strict=True):
        yield f"{name:<{wide}}", f"{row.detail:<{middle}}", f"{row.parameters:>{right}}"
