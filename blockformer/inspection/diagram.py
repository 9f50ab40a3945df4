"""A model as a picture: embeddings, stacks with layers that repeat drawn once, and the head."""

from collections.abc import Iterator
from typing import Any

from blockformer.assembly.layer_names import layers_of, layout, name_of, names_of
from blockformer.assembly.settings import named, settings
from blockformer.inspection.picture import Mark, Picture, below, box, framed, joined, word
from blockformer.inspection.wiring import Merge, Step, Wiring, wiring_of
from blocks.base import Component, Embedding, Head, Layer, Mixer, Stack
from blocks.models.base import Model
from registry import Recipe, Spec, entry_of, spec_of
from registry.text import ranges

ONE, TWO = 62, 34
"""Widths of a box in a model with one stack, and with two side by side."""


def diagram(recipe: Recipe, model: Model) -> Picture:
    """The whole model; a stack is a column that is read downwards."""
    stacks = [block for _, block in model.components() if isinstance(block, Stack)]
    width = ONE if len(stacks) < 2 else TWO
    embeddings = [(name, child) for name, child in model.named_children() if isinstance(child, Embedding)]
    columns: list[Picture] = []
    for index, stack in enumerate(stacks):
        own = embeddings[min(index, len(embeddings) - 1)] if embeddings else None
        columns.append(_column(model, stack, own, width, stack is stacks[-1]))
    spec = spec_of(model)
    said = [f"{recipe.name}: {entry_of(type(model)).name}, {model.size:,} parameters", settings(spec)]
    said += [f"init {named(child)}" for path, child in (spec.children() if spec else ()) if path == ("init",)]
    body = _beside(columns)
    head = box(said, max(ONE, body.width))
    return Picture(head.width, head.height + 1 + body.height, 0, (*head.marks, *body.moved(0, head.height + 1)))


def _beside(columns: list[Picture]) -> Picture:
    """Columns side by side; the first leads to whatever in the others looks at it."""
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
    return Picture(left - 5, max(column.height for column in columns) + 1, first.anchor, tuple(marks))


def _column(model: Model, stack: Stack, embedding: tuple[str, Component] | None, width: int, last: bool) -> Picture:
    path = next(name for name, block in model.components() if block is stack)
    parts = [word("tokens")]
    if embedding is not None:
        parts.append(_box(model, *embedding, width))
    parts += _layers(path, stack, width)
    after = [(name, child) for name, child in stack.named_children() if isinstance(child, Component)]
    parts += [_box(model, f"{path}.{name}", child, width) for name, child in after if child.slot.name == "norm"]
    if last:
        heads = [(name, child) for name, child in model.named_children() if isinstance(child, Head)]
        parts += [*(_box(model, *head, width) for head in heads), word("logits")]
    else:
        parts.append(word("memory"))
    return below(parts)


def _layers(path: str, stack: Stack, width: int) -> Iterator[Picture]:
    """Each kind of layer once, in the order in which they appear first."""
    groups: dict[int, list[int]] = {}
    layers = layers_of(stack) or [layer for _, layer in stack.components() if isinstance(layer, Layer)]
    for index, layer in enumerate(layers):
        groups.setdefault(id(spec_of(layer) or layer), []).append(index)
    turns = f", each {stack.repeats} times" if stack.repeats > 1 else ""
    laid = f"{layout(names_of(stack))}{turns}" if any(names_of(stack)) else f"{len(layers)} x the same{turns}"
    spec = spec_of(stack)
    said = [f"{path}: {entry_of(type(stack)).name}", laid]
    said += [f"positions {named(child)}" for at, child in (spec.children() if spec else ()) if at == ("positions",)]
    yield box(said, width)
    for indices in groups.values():
        layer = layers[indices[0]]
        name = name_of(stack, layer)
        title = f"{name + ': ' if name else ''}{entry_of(type(layer)).name}, {len(indices)} x"
        which = f"layer{'s' * (len(indices) > 1)} {ranges(indices)}"
        yield framed([title, which], _inside(layer, width), width + 4)


def _inside(layer: Component, width: int) -> Picture:
    wiring = wiring_of(layer) if isinstance(layer, Layer) else None
    if wiring is None:  # not known how they are joined: only which there are
        blocks = [(name, child) for name, child in layer.named_children() if isinstance(child, Component)]
        return below([word("wiring not known"), *(_box(None, name, child, width) for name, child in blocks)])
    return below(_steps(wiring, width))


def _steps(wiring: Wiring, width: int) -> Iterator[Picture]:
    for step in wiring:
        if isinstance(step, Step):
            yield _box(None, step.name, step.block, width)
        else:
            yield _merge(step, width)


def _merge(merge: Merge, width: int) -> Picture:
    ways = [way for way in merge.ways if way]
    each = width if len(ways) == 1 else (width - 2 * (len(ways) - 1)) // max(1, len(ways))
    first = [next((step.block for step in way if isinstance(step, Step)), None) for way in ways]
    pictures: list[Picture] = []
    for index, way in enumerate(ways):
        steps = list(_steps(way, max(each, 14)))
        if first[index] is not None and first[index] in first[:index] and isinstance(way[0], Step):
            steps[0] = _box(None, f"(the same) {way[0].name}", way[0].block, max(each, 14))
        pictures.append(below(steps))
    return joined(pictures, merge.operation, merge.label, passes=len(ways) < len(merge.ways))


def _box(model: Model | None, name: str, block: Component, width: int) -> Picture:
    lines = [f"{name}: {entry_of(type(block)).name}"]
    spec = spec_of(block)
    if spec is not None:
        lines += [said for said in (settings(spec), *_nested(spec)) if said]
    if model is not None and (owner := _owner_of_table(model, name, block)):
        lines.append(f"shares the token table of {owner}")
    looks = isinstance(block, Mixer) and block.site is not None and block.site.memory_dim is not None
    return box(lines, width, "cross" if looks else "")


def _owner_of_table(model: Model, name: str, block: Component) -> str:
    """Whose token table a block uses, if it has none of its own."""
    tables = {path: embedding for path, embedding in model.named_children() if isinstance(embedding, Embedding)}
    if isinstance(block, Embedding):
        if any(parameter is block.table for parameter in block.parameters()):
            return ""
        return next((path for path, other in tables.items() if path != name and other.table is block.table), "")
    if isinstance(block, Head) and not any(p.ndim == 2 and p.shape[0] == model.vocab_size for p in block.parameters()):
        return list(tables)[-1] if tables else ""
    return ""


def _nested(spec: Spec[Any]) -> Iterator[str]:
    """The blocks in a block."""
    for path, child in spec.children():
        yield f"{path[0]} {named(child)}"
        yield from _nested(child)
