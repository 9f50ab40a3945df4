"""The functions that expressions may call, beside a family's own."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from blockformer.huggingface.expression import ExpressionError

MOST = 100_000  # items that one value may have, and turns that the comprehensions of one expression may take


def _range(*bounds: int) -> list[int]:
    numbers = range(*bounds)
    if len(numbers) > MOST:
        raise ExpressionError(f"a range of {len(numbers)} is longer than {MOST}")
    return list(numbers)


def _get(mapping: Mapping[str, Any] | None, key: str, default: Any = None) -> Any:
    """The value of a key, or ``default`` where there is no such key or no mapping at all."""
    return default if mapping is None or key not in mapping else mapping[key]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "all": all,
    "any": any,
    "float": float,
    "get": _get,
    "int": int,
    "len": len,
    "list": list,
    "log": math.log,
    "max": max,
    "min": min,
    "range": _range,
    "round": round,
    "sqrt": math.sqrt,
    "sum": sum,
}
