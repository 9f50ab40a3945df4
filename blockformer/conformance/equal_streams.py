"""Make all residuals of a generated recipe have the same number of streams, which is rare by chance."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, cast

import torch

from blockformer.conformance.block_case import BlockCase
from blocks.base import Residual

Tree = dict[str, Any]
WIRED = (None, "sequential", "consecutive")
"""Layers whose sublayers are wired by residuals alone."""


def with_equal_streams(tree: Tree) -> Tree:
    """The recipe in which each stack with a residual of several streams has that residual around all sublayers.

    Residuals with the same number of streams stay, and recipes in which all residuals have one stream too. A stack with
    a layer ``altup`` has it around all layers.
    """
    tree = deepcopy(tree)
    for stack in _stacks(tree):
        named = cast("Tree | None", stack.get("layers"))
        places = [(named, name) for name in named] if named else [(stack, "layer")]
        layers = [_mapping(holder.get(key)) for holder, key in places]
        if updated := [layer for layer in layers if layer.get("type") == "altup"]:
            for (holder, key), layer in zip(places, layers, strict=True):
                holder[key] = _inside(layer, updated[0])
            continue
        several = [found for layer in layers for key in _wirings(layer) if (found := _usable(layer[key])) is not None]
        if not several:
            continue
        for (holder, key), layer in zip(places, layers, strict=True):
            if layer.get("type") in WIRED:
                holder[key] = _agreeing(layer, *several[0])
    return tree


def _inside(layer: Tree, altup: Tree) -> Tree:
    """The layer with as many streams as ``altup``, inside another one if it has one stream."""
    number = {"streams": altup["streams"]} if "streams" in altup else {}
    if layer.get("type") == "altup":
        return {key: value for key, value in layer.items() if key != "streams"} | number
    return {"type": "altup", **number, "inner": layer or "sequential"}


def _agreeing(layer: Tree, residual: Any, streams: int) -> Tree:
    usable = {key: _usable(layer[key]) for key in _wirings(layer)}
    kept = {key: found[0] for key, found in usable.items() if found is not None and found[1] == streams}
    return {key: value for key, value in layer.items() if key not in usable} | {"residual": residual} | kept


def _stacks(tree: Tree) -> Iterator[Tree]:
    for key, value in tree.items():
        if isinstance(value, dict):
            stack = cast("Tree", value)
            if key in ("encoder", "decoder"):
                yield stack
            yield from _stacks(stack)


def _wirings(layer: Tree) -> list[str]:
    return [key for key in layer if key == "residual" or key.endswith("_residual")]


def _mapping(value: Any) -> Tree:
    return {"type": value} if isinstance(value, str) else dict(cast("Tree", value or {}))


def _usable(residual: Any) -> tuple[Tree, int] | None:
    """A residual with several streams, without an ``inner`` that it refuses, and their number; None: it has one."""
    params = _mapping(residual)
    if "type" not in params:
        return None
    for tried in (params, {key: value for key, value in params.items() if key != "inner"}):
        if (streams := _streams(tried)) is not None:
            return (tried, streams) if streams > 1 else None
    return None


def _streams(params: Tree) -> int | None:
    """None: the parameters do not fit each other."""
    try:
        with torch.device("meta"):
            others = {key: value for key, value in params.items() if key != "type"}
            return cast("Residual", BlockCase("residual", params["type"], others).construct()).streams
    except ValueError:
        return None
