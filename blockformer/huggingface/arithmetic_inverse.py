"""Solve an operation for the operand that is not known."""

import ast
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

from blockformer.huggingface.partial_config import ConflictError

_INVERSES: dict[type[ast.operator], tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    ast.Add: (lambda y, b: y - b, lambda y, a: y - a),
    ast.Sub: (lambda y, b: y + b, lambda y, a: a - y),
    ast.Mult: (lambda y, b: y / b, lambda y, a: y / a),
    ast.Div: (lambda y, b: y * b, lambda y, a: a / y),
    ast.FloorDiv: (lambda y, b: y * b, lambda y, a: a // y),
    ast.Pow: (lambda y, b: y ** (1 / b), lambda y, a: math.log(y, a)),
}
"""For y = a op b: a from (y, b), and b from (y, a)."""


def unknown_operand(operation: ast.operator, value: Any, left: Any, right: Any) -> Any:
    """The operand for which an operation has a value.

    Args:
        operation: such as addition.
        value: its result.
        left: the left operand; None: unknown.
        right: the right operand, likewise; exactly one is unknown.

    Returns:
        The unknown operand; None if the operation has no inverse.

    Raises:
        ConflictError: no operand gives this value.
    """
    if isinstance(left or right, str) and isinstance(operation, ast.Add):
        value = cast("Mapping[str, Any]", value).get("type") if isinstance(value, Mapping) else value  # a block's name
        return _rest_of_text(value, left, right)
    inverse = _INVERSES.get(type(operation))
    if inverse is None or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return _rounded(inverse[0](value, right) if right is not None else inverse[1](value, left))
    except (ArithmeticError, ValueError, TypeError):
        raise ConflictError(f"no operand gives {value}") from None


def _rest_of_text(value: Any, left: Any, right: Any) -> str:
    known, after = str(right if left is None else left), left is None
    if not isinstance(value, str) or not (value.endswith(known) if after else value.startswith(known)):
        raise ConflictError(f"{value} does not {'end' if after else 'begin'} with {known}")
    return value.removesuffix(known) if after else value.removeprefix(known)


def _rounded(number: float) -> float:
    """Without rounding errors of the inverse: 30.000000000000004 becomes 30."""
    short = float(f"{number:.13g}")
    return int(short) if short.is_integer() else short
