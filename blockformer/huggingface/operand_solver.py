"""Solve an operation for its unknown operand, and find the key of the config that ``base[key]`` reads."""

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from blockformer.huggingface.expression import is_expression, parse
from blockformer.huggingface.partial_config import ConflictError, Path
from registry.strict_yaml import Map

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


class PlaceSolver:
    """Assigns a value inside a mapping or a list of the config.

    Args:
        solver: an ExpressionSolver, which finds the keys of the config and calls this class.
        path: the keys below the base, the outermost first.
        value: the value there.
        items: number of items if the base is a list with one for each layer; None: it is not.
        plain: the base may also be the value itself.
    """

    def __init__(self, solver: Any, path: Path, value: Any, items: int | None, plain: bool) -> None:
        self.solver, self.path, self.value = solver, path, value
        self.items, self.plain = items, plain

    def solve(self, base: Any, environment: Any) -> bool:
        """Assign the value; False if it is not known (yet) which key of the config the base is.

        Raises:
            ConflictError: the key has another value.
        """
        if is_expression(base):
            return self.solve(parse(cast("str", base)), environment)
        if isinstance(base, Map):
            return self._in_template(base, environment)
        match base:
            case ast.Name(id=name):
                return self._in_name(name, environment)
            case ast.Subscript() | ast.Call(func=ast.Name(id="get")):
                whole, key = (base.value, base.slice) if isinstance(base, ast.Subscript) else base.args[:2]
                known, index = self.solver.evaluate(key, environment)
                return known and self._below(index).solve(whole, environment)
            case ast.Call(func=ast.Name(id=name)) if name in self.solver.family.templates:
                template = self.solver.family.templates[name]
                return self.solve(template.body, self.solver.called(template, base, environment))
            case ast.BoolOp(op=ast.Or(), values=[first, *_]) | ast.BoolOp(op=ast.And(), values=[*_, first]):
                return self.solve(first, environment)
            case ast.IfExp():
                return self._in_branches(base.test, {True: base.body, False: base.orelse}, environment)
            case ast.Dict():
                return self._in_dictionary(base, environment)
            case _:
                return False

    def _below(self, key: Any) -> "PlaceSolver":
        return PlaceSolver(self.solver, (key, *self.path), self.value, self.items, self.plain)

    def _inside(self, path: Sequence[str | int]) -> "PlaceSolver":
        return PlaceSolver(self.solver, tuple(path), self.value, self.items, self.plain)

    def _in_name(self, name: str, environment: Any) -> bool:
        if name in environment.arguments:
            return self.solve(*environment.arguments[name])
        template = self.solver.family.templates.get(name)
        if template is not None and name not in environment.active:
            return self.solve(template.body, environment.inside(name))
        keys, path = self.solver.keys, (name, *self.path)
        keys.assign(path, self.value)
        if self.items is not None:
            keys.lengths[path[:-1]] = self.items
        if self.plain:
            keys.plain.add(path[:-1])
        return True

    def _in_template(self, body: Map, environment: Any) -> bool:
        if "if" in body:
            branches = {True: body.get("then"), False: body.get("else")}
            return self._in_branches(parse(str(body["if"])), branches, environment)
        first, *rest = self.path
        key = str(first)
        if key not in body:
            return False
        if rest:
            return self._inside(rest).solve(body[key], environment)
        self.solver.solve_template(body[key], self.value, environment)
        return True

    def _in_branches(self, test: ast.expr, branches: dict[bool, Any], environment: Any) -> bool:
        """In the branch that a condition selects; if that is not known, in the first that has the key."""
        known, truth = self.solver.evaluate(test, environment)
        if known:
            return self.solve(branches[bool(truth)], environment)

        def take(which: bool) -> None:
            if not self.solve(branches[which], environment):
                raise ConflictError("the branch has no such key")
            self.solver.require(test, which, environment)

        try:
            self.solver.first(partial(take, True), partial(take, False))
        except ConflictError:
            return False
        return True

    def _in_dictionary(self, node: ast.Dict, environment: Any) -> bool:
        first, *rest = self.path
        for key, part in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == first:
                if rest:
                    return self._inside(rest).solve(part, environment)
                self.solver.equal(part, self.value, environment)
                return True
        merged = [part for key, part in zip(node.keys, node.values, strict=True) if key is None]
        return bool(merged) and self.solve(merged[0], environment)
