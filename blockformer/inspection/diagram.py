"""The drawing of a model: embeddings, stacks with repeated layers drawn once, and the head."""

from collections.abc import Iterator
from typing import Any

from blockformer.assembly.descriptions import layers_of, layout, name_of, names_of, settings, with_settings
from blockformer.inspection.rendering import Drawing, Mark, box, framed, label, merged, stacked
from blockformer.inspection.wiring import Merge, Step, Wiring, wiring_of
from blocks.base import Component, Embedding, Head, Layer, Mixer, Stack
from blocks.models.base import Model
from registry import Recipe, Spec, entry_of, spec_of
from registry.text import ranges

ONE_STACK, TWO_STACKS = 62, 34
"""Width of a box in cells, in a model with one stack and with two side by side."""


def diagram(recipe: Recipe, model: Model) -> Drawing:
    """The whole model; each stack is a column, read from top to bottom."""
    stacks = [block for _, block in model.components() if isinstance(block, Stack)]
    width = ONE_STACK if len(stacks) < 2 else TWO_STACKS
    embeddings = [(name, child) for name, child in model.named_children() if isinstance(child, Embedding)]
    columns: list[Drawing] = []
    for index, stack in enumerate(stacks):
        own = embeddings[min(index, len(embeddings) - 1)] if embeddings else None
        columns.append(_column(model, stack, own, width, stack is stacks[-1]))
    spec = spec_of(model)
    lines = [f"{recipe.name}: {entry_of(type(model)).name}, {model.size:,} parameters", settings(spec)]
    lines += [f"init {with_settings(child)}" for path, child in (spec.children() if spec else ()) if path == ("init",)]
    body = _beside(columns)
    head = box(lines, max(ONE_STACK, body.width))
    return Drawing(head.width, head.height + 1 + body.height, 0, (*head.marks, *body.moved(0, head.height + 1)))


def layer_diagram(model: Model, slot: str, name: str) -> Drawing | None:
    """The first kind of layer that has a block, alone; None if the block is in no layer.

    Args:
        model: built from a recipe.
        slot: of the block.
        name: of the block.
    """
    for _, stack in model.components():
        for index, layer in enumerate(layers_of(stack)):
            spec = spec_of(layer)
            if spec and any((inner.entry.slot, inner.entry.name) == (slot, name) for _, inner in spec.walk()):
                return framed(
                    [f"layer {index}: {entry_of(type(layer)).name}"], _inside(layer, ONE_STACK), ONE_STACK + 4
                )
    return None


def _beside(columns: list[Drawing]) -> Drawing:
    """Columns side by side; a line leads from the first, the encoder, to each cross mixer in the others."""
    marks: list[Mark] = list(columns[0].marks)
    left, first = columns[0].width + 5, columns[0]
    for column in columns[1:]:
        moved = column.moved(left, 0)
        marks += moved
        gutter, end = first.width + 2, first.height
        for mark in moved:
            if mark.tag == "cross":
                (x, top), (_, bottom) = mark.points
                row = (top + bottom) // 2
                path = ((first.anchor, end - 1), (first.anchor, end), (gutter, end), (gutter, row), (x, row))
                marks += [Mark("line", path, tag="memory"), Mark("arrow", ((x - 1, row),), tag="memory")]
        left += column.width + 5
    return Drawing(left - 5, max(column.height for column in columns) + 1, first.anchor, tuple(marks))


def _column(model: Model, stack: Stack, embedding: tuple[str, Component] | None, width: int, last: bool) -> Drawing:
    path = next(name for name, block in model.components() if block is stack)
    parts = [label("tokens")]
    if embedding is not None:
        parts.append(_box(model, *embedding, width))
    parts += _layers(path, stack, width)
    after = [(name, child) for name, child in stack.named_children() if isinstance(child, Component)]
    after = [(name, child) for name, child in after if child.slot.name in ("readout", "norm")]
    parts += [_box(model, f"{path}.{name}", child, width) for name, child in after]
    if last:
        heads = [(name, child) for name, child in model.named_children() if isinstance(child, Head)]
        parts += [*(_box(model, *head, width) for head in heads), label("logits")]
    else:
        parts.append(label("memory"))
    return stacked(parts)


def _layers(path: str, stack: Stack, width: int) -> Iterator[Drawing]:
    """Each distinct layer once, in the order in which they first appear."""
    groups: dict[int, list[int]] = {}
    layers = layers_of(stack) or [layer for _, layer in stack.components() if isinstance(layer, Layer)]
    for index, layer in enumerate(layers):
        groups.setdefault(id(spec_of(layer) or layer), []).append(index)
    repeats = f", each {stack.repeats} times" if stack.repeats > 1 else ""
    arrangement = (
        f"{layout(names_of(stack))}{repeats}" if any(names_of(stack)) else f"{len(layers)} x the same{repeats}"
    )
    spec = spec_of(stack)
    lines = [f"{path}: {entry_of(type(stack)).name}", arrangement]
    lines += [
        f"positions {with_settings(child)}" for at, child in (spec.children() if spec else ()) if at == ("positions",)
    ]
    yield box(lines, width)
    for indices in groups.values():
        layer = layers[indices[0]]
        name = name_of(stack, layer)
        title = f"{name + ': ' if name else ''}{entry_of(type(layer)).name}, {len(indices)} x"
        which = f"layer{'s' * (len(indices) > 1)} {ranges(indices)}"
        yield framed([title, which], _inside(layer, width), width + 4)


def _inside(layer: Component, width: int) -> Drawing:
    wiring = wiring_of(layer) if isinstance(layer, Layer) else None
    if wiring is None:  # the forward pass could not be traced: show the blocks alone
        blocks = [(name, child) for name, child in layer.named_children() if isinstance(child, Component)]
        return stacked([label("wiring not known"), *(_box(None, name, child, width) for name, child in blocks)])
    return stacked(_steps(wiring, width))


def _steps(wiring: Wiring, width: int) -> Iterator[Drawing]:
    for step in wiring:
        if isinstance(step, Step):
            yield _box(None, step.name, step.block, width)
        else:
            yield _merge(step, width)


def _merge(merge: Merge, width: int) -> Drawing:
    branches = [branch for branch in merge.branches if branch]
    each = width if len(branches) == 1 else (width - 2 * (len(branches) - 1)) // max(1, len(branches))
    first = [next((step.block for step in branch if isinstance(step, Step)), None) for branch in branches]
    drawings: list[Drawing] = []
    for index, branch in enumerate(branches):
        steps = list(_steps(branch, max(each, 14)))
        if first[index] is not None and first[index] in first[:index] and isinstance(branch[0], Step):
            steps[0] = _box(None, f"(the same) {branch[0].name}", branch[0].block, max(each, 14))
        drawings.append(stacked(steps))
    return merged(drawings, merge.operation, merge.residuals, skip=len(branches) < len(merge.branches))


def _box(model: Model | None, name: str, block: Component, width: int) -> Drawing:
    lines = [f"{name}: {entry_of(type(block)).name}"]
    spec = spec_of(block)
    if spec is not None:
        lines += [line for line in (settings(spec), *_nested(spec)) if line]
    if model is not None and (owner := _owner_of_table(model, name, block)):
        lines.append(f"shares the token table of {owner}")
    cross = isinstance(block, Mixer) and block.site is not None and block.site.memory_dim is not None
    return box(lines, width, "cross" if cross else "")


def _owner_of_table(model: Model, name: str, block: Component) -> str:
    """Name of the embedding whose token table a block shares; empty if it has its own, or needs none."""
    tables = {path: embedding for path, embedding in model.named_children() if isinstance(embedding, Embedding)}
    if isinstance(block, Embedding):
        if any(parameter is block.table for parameter in block.parameters()):
            return ""
        return next((path for path, other in tables.items() if path != name and other.table is block.table), "")
    if isinstance(block, Head) and not any(p.ndim == 2 and p.shape[0] == model.vocab_size for p in block.parameters()):
        return list(tables)[-1] if tables else ""
    return ""


def _nested(spec: Spec[Any]) -> Iterator[str]:
    """The blocks nested in a block."""
    for path, child in spec.children():
        yield f"{path[0]} {with_settings(child)}"
        yield from _nested(child)
