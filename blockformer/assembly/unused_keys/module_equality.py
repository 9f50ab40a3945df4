"""Equality of built blocks, apart from the values of their weights."""

from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from blocks.base import Component, Linear

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, Set)
PYTHON_CLASS = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class defined in Python, whose instances keep all state in attributes
Seen = frozenset[tuple[int, int]]


def certainly_equal(one: Any, other: Any, seen: Seen = frozenset()) -> bool:
    """True if two values are certainly equal; modules if their settings, parameter shapes and constants are equal.

    Values that cannot be compared count as different.

    Args:
        one: any value.
        other: any value.
        seen: ids of the pairs whose comparison is in progress, so that cycles end.
    """
    pair = (id(one), id(other))
    if one is other or pair in seen:
        return True
    if type(one) is not type(other):
        return False
    compare = next((compare for kind, compare in _COMPARISONS if isinstance(one, kind)), _objects)
    return compare(one, other, seen | {pair})


def _modules(one: nn.Module, other: nn.Module, seen: Seen) -> bool:
    if isinstance(one, Component):
        beside = cast("Component", other)
        starts = ((one.constants(), beside.constants()), (one.deviations(), beside.deviations()))
        if not all(certainly_equal(*pair, seen) for pair in starts):
            return False
    return certainly_equal(_attributes(one), _attributes(other), seen)


def _attributes(block: object) -> dict[str, Any]:
    """A block's attributes without its Spec, which always differs, and without the adapter that its model added."""
    found = {name: value for name, value in vars(block).items() if name != "_spec"}
    if isinstance(block, Linear):
        found.pop("adapter", None)  # there while it is None
        found["_modules"] = {name: child for name, child in block.named_children() if name != "adapter"}
    return found


def _tensors(one: Tensor, other: Tensor, seen: Seen) -> bool:
    alike = (one.shape, one.dtype, one.requires_grad) == (other.shape, other.dtype, other.requires_grad)
    return alike and isinstance(
        one, nn.Parameter
    )  # buffers count as different: their values matter, but meta tensors have none


def _mappings(one: Mapping[Any, Any], other: Mapping[Any, Any], seen: Seen) -> bool:
    return list(one) == list(other) and all(certainly_equal(value, other[key], seen) for key, value in one.items())


def _sequences(one: Sequence[Any], other: Sequence[Any], seen: Seen) -> bool:
    return len(one) == len(other) and all(certainly_equal(a, b, seen) for a, b in zip(one, other, strict=True))


def _partials(one: "partial[Any]", other: "partial[Any]", seen: Seen) -> bool:
    return certainly_equal((one.func, one.args, one.keywords), (other.func, other.args, other.keywords), seen)


def _equal(one: object, other: object, seen: Seen) -> bool:
    return one == other


def _objects(one: object, other: object, seen: Seen) -> bool:
    kind = type(one)
    if kind.__eq__ is object.__eq__ and kind.__flags__ & PYTHON_CLASS and hasattr(one, "__dict__"):
        return certainly_equal(_attributes(one), _attributes(other), seen)
    try:
        return (one == other) is True
    except Exception:  # a class from elsewhere may raise anything in __eq__
        return False


_COMPARISONS: tuple[tuple[Any, Callable[[Any, Any, Seen], bool]], ...] = (
    (nn.Module, _modules),
    (Tensor, _tensors),
    (PLAIN, _equal),
    (Mapping, _mappings),
    ((list, tuple), _sequences),
    (partial, _partials),
)
