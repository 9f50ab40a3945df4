"""Convert between a list of layers and the keys that describe them in a stack's recipe."""

import json
from collections.abc import Sequence
from typing import Any

from blockformer.assembly.descriptions import shortest_periods


def compress_layers(layers: Sequence[Any], names: Sequence[str | None]) -> dict[str, Any]:
    """The shortest keys of a stack that describe a list of layers.

    Args:
        layers: the recipe of each layer.
        names: the name of each layer; None: a letter. Different layers with the same name get a number as a suffix.

    Returns:
        ``layer`` if all are equal; else ``layers`` and ``pattern``, with ``first`` for layers before the repetition
        and ``rest: cut`` if the last repetition is incomplete.
    """
    keys = [json.dumps(layer, sort_keys=True, default=list) for layer in layers]
    if len(set(keys)) <= 1:
        return {"layer": layers[0]} if layers else {}
    unique = _unique_names(keys, names)
    order = [unique[key] for key in keys]
    begin, period = _shortest_repetition(order)
    described: dict[str, Any] = {"layers": {unique[key]: layers[keys.index(key)] for key in dict.fromkeys(keys)}}
    if begin:
        described["first"] = order[:begin]
    described["pattern"] = order[begin : begin + period]
    return described | ({"rest": "cut"} if (len(order) - begin) % period else {})


def expand_layers(stack: dict[str, Any]) -> list[Any]:
    """The recipe of each layer that has weights of its own; the inverse of :func:`compress_layers`."""
    count = stack.get("distinct") or stack["depth"]
    if not stack.get("layers"):
        return [stack["layer"]] * count
    first, pattern = list(stack.get("first") or ()), list(stack["pattern"])
    order = first + [pattern[index % len(pattern)] for index in range(count - len(first))]
    return [stack["layers"][name] for name in order]


def _unique_names(keys: Sequence[str], names: Sequence[str | None]) -> dict[str, str]:
    """A unique name for every distinct layer, by its key."""
    unique: dict[str, str] = {}
    for key, name in zip(keys, names, strict=True):
        if key in unique:
            continue
        base = name or chr(ord("a") + len(unique) % 26)
        taken = sum(other == base or other.startswith(f"{base}_") for other in unique.values())
        unique[key] = f"{base}_{taken + 1}" if taken else base
    return unique


def _shortest_repetition(order: Sequence[str]) -> tuple[int, int]:
    """Start and period of the repetition that takes the fewest names to write, preferably without a remainder."""
    periods = enumerate(shortest_periods(order))
    plans = [(begin + period, (len(order) - begin) % period, begin, period) for begin, period in periods]
    *_, begin, period = min(plans)
    return begin, period
