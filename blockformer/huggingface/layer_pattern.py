"""Say in few words which layers a stack has: alike, or named and laid out by a pattern."""

import json
from collections.abc import Sequence
from typing import Any


def laid_out(layers: Sequence[Any], names: Sequence[str | None]) -> dict[str, Any]:
    """The keys of a stack that describe these layers.

    Args:
        layers: the recipe of each.
        names: what each shall be called; None: a letter. Different layers of one name are told apart by a number.

    Returns:
        ``layer``, or ``layers`` and ``pattern``, with ``first`` and ``rest`` where it begins later or breaks off.
    """
    keys = [json.dumps(layer, sort_keys=True, default=list) for layer in layers]
    if len(set(keys)) <= 1:
        return {"layer": layers[0]} if layers else {}
    called = _called(keys, names)
    order = [called[key] for key in keys]
    begin, period = _shortest(order)
    described: dict[str, Any] = {"layers": {called[key]: layers[keys.index(key)] for key in dict.fromkeys(keys)}}
    if begin:
        described["first"] = order[:begin]
    described["pattern"] = order[begin : begin + period]
    return described | ({"rest": "cut"} if (len(order) - begin) % period else {})


def listed(stack: dict[str, Any]) -> list[Any]:
    """The recipe of each layer that has weights of its own; the inverse of :func:`laid_out`."""
    count = stack.get("distinct") or stack["depth"]
    if not stack.get("layers"):
        return [stack["layer"]] * count
    first, pattern = list(stack.get("first") or ()), list(stack["pattern"])
    order = first + [pattern[index % len(pattern)] for index in range(count - len(first))]
    return [stack["layers"][name] for name in order]


def _called(keys: Sequence[str], names: Sequence[str | None]) -> dict[str, str]:
    """A name of its own for every kind of layer."""
    called: dict[str, str] = {}
    for key, name in zip(keys, names, strict=True):
        if key in called:
            continue
        base = name or chr(ord("a") + len(called) % 26)
        taken = sum(other == base or other.startswith(f"{base}_") for other in called.values())
        called[key] = f"{base}_{taken + 1}" if taken else base
    return called


def _shortest(order: Sequence[str]) -> tuple[int, int]:
    """Where a repetition begins and its period, with the fewest names to write, and best without a remainder."""
    plans: list[tuple[int, int, int, int]] = []
    for begin in range(len(order)):
        rest = order[begin:]
        period = next(p for p in range(1, len(rest) + 1) if all(a == b for a, b in zip(rest, rest[p:], strict=False)))
        plans.append((begin + period, len(rest) % period, begin, period))
    *_, begin, period = min(plans)
    return begin, period
