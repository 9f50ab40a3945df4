"""Expressions in family files: parse and evaluate a small part of Python.

A family file is data and may come from anyone, so expressions have no attributes and no imports, they call only the
functions in ``FUNCTIONS`` and those of the family, and the amount of work is bounded.
"""

import ast
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from functools import cache
from typing import Any, Protocol, cast

from registry import RecipeError

_OPERATOR_NODES: tuple[type[ast.AST], ...] = (
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.USub, ast.Not, ast.And, ast.Or),
    *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Is, ast.IsNot, ast.In, ast.NotIn),
)
_ALLOWED = (
    *(ast.Constant, ast.Name, ast.Load, ast.Store, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Compare, ast.IfExp),
    *(ast.List, ast.Dict, ast.Subscript, ast.Slice, ast.ListComp, ast.comprehension, ast.Call, *_OPERATOR_NODES),
)
_PREFIX = "="
MAX_ITEMS = 100_000  # items of one value, and iterations of all comprehensions of one expression
_MAX_BASE, _MAX_EXPONENT = 1e6, 16
_MAX_TEXT = 1000  # characters of joined texts


class ExpressionError(ValueError):
    """An expression cannot be parsed or evaluated; the message gives the reason."""


class Scope(Protocol):
    """The names that an expression may use."""

    def value(self, name: str) -> Any:
        """The value of a name.

        Raises:
            ExpressionError: the name is unknown.
        """
        ...

    def call(self, name: str, arguments: Sequence[Any]) -> Any:
        """The result of a function that the family defines.

        Raises:
            ExpressionError: the call fails.
        """
        ...


def is_expression(value: object) -> bool:
    """Whether a value in a family file is an expression: text that begins with ``=``."""
    return isinstance(value, str) and value.startswith(_PREFIX)


@cache
def parse(text: str) -> ast.expr:
    """The syntax tree of an expression, with or without the leading ``=``.

    Raises:
        ExpressionError: the text is not valid Python, or uses syntax that expressions do not allow.
    """
    text = text.removeprefix(_PREFIX).strip()
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"{text!r} is not a valid expression: {getattr(error, 'msg', error)}") from None
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED):
            raise ExpressionError(f"{text!r} uses {type(node).__name__}, which expressions do not allow")
        if isinstance(node, ast.Call) and (not isinstance(node.func, ast.Name) or node.keywords):
            raise ExpressionError(f"{text!r}: only functions called by name with positional arguments are allowed")
        if isinstance(node, ast.comprehension) and not isinstance(node.target, ast.Name):
            raise ExpressionError(f"{text!r}: a comprehension must bind exactly one name")
    return tree


def names(tree: ast.expr) -> set[str]:
    """The names that an expression reads, without functions and the variables of its own comprehensions."""
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called]
    bound = {node.id for node in found if isinstance(node.ctx, ast.Store)}
    return {node.id for node in found} - bound


def calls(tree: ast.expr) -> set[str]:
    """The functions that an expression calls."""
    return {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


def items(tree: ast.expr) -> set[str]:
    """The keys of mappings that an expression reads, by ``mapping["key"]`` or ``get(mapping, "key")``."""
    parts = [node.slice for node in ast.walk(tree) if isinstance(node, ast.Subscript)]
    parts += [node.args[1] for node in ast.walk(tree) if isinstance(node, ast.Call) and len(node.args) > 1]
    constants = [one for part in parts for one in ast.walk(part) if isinstance(one, ast.Constant)]
    return {one.value for one in constants if isinstance(one.value, str)}


def evaluate(tree: ast.expr, scope: Scope) -> Any:
    """The value of an expression.

    Raises:
        ExpressionError: a name is unknown, an operation fails, or a limit is exceeded.
    """
    try:
        return _Evaluator(scope).visit(tree)
    except (ExpressionError, RecipeError):
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        reason = f"unknown key {error}" if isinstance(error, KeyError) else str(error)
        raise ExpressionError(f"{ast.unparse(tree)!r} cannot be evaluated: {reason}") from None


class _Evaluator:
    """Evaluates one expression; holds the variables of its comprehensions and counts their iterations."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.variables: dict[str, Any] = {}
        self.iterations = 0

    def visit(self, node: ast.expr) -> Any:
        return _VISITORS[type(node)](self, node)

    def name(self, node: ast.Name) -> Any:
        return self.variables[node.id] if node.id in self.variables else self.scope.value(node.id)

    def and_or(self, node: ast.BoolOp) -> Any:
        value: Any = None
        for operand in node.values:
            value = self.visit(operand)
            if bool(value) is isinstance(node.op, ast.Or):
                break
        return value

    def arithmetic(self, node: ast.BinOp) -> Any:
        left, right = self.visit(node.left), self.visit(node.right)
        if isinstance(left, str) or isinstance(right, str):
            return _joined(left, right, node)
        if isinstance(node.op, ast.Pow) and (abs(left) > _MAX_BASE or abs(right) > _MAX_EXPONENT):
            limits = f"the base {_MAX_BASE:.0f} or the exponent {_MAX_EXPONENT}"
            raise ExpressionError(f"{ast.unparse(node)!r} exceeds {limits}, the limits of a power")
        if isinstance(node.op, ast.Mult | ast.Add) and _items(left, right, isinstance(node.op, ast.Mult)) > MAX_ITEMS:
            raise ExpressionError(f"{ast.unparse(node)!r} would have more than {MAX_ITEMS} items")
        result = _OPERATORS[type(node.op)](left, right)
        if isinstance(result, complex):  # of a root of a negative number
            raise ExpressionError(f"{ast.unparse(node)!r} has no real value")
        return result

    def comparison(self, node: ast.Compare) -> bool:
        left = self.visit(node.left)
        for operation, comparator in zip(node.ops, node.comparators, strict=True):
            right = self.visit(comparator)
            if not _OPERATORS[type(operation)](left, right):
                return False
            left = right
        return True

    def dictionary(self, node: ast.Dict) -> Mapping[str, Any]:
        result: Mapping[str, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            result = cast("Any", result) | (self.visit(value) if key is None else {self.visit(key): self.visit(value)})
        return result

    def subscript(self, node: ast.Subscript) -> Any:
        if isinstance(part := node.slice, ast.Slice):
            bounds = (None if bound is None else self.visit(bound) for bound in (part.lower, part.upper, part.step))
            return self.visit(node.value)[slice(*bounds)]
        return self.visit(node.value)[self.visit(part)]

    def comprehension(self, node: ast.ListComp) -> list[Any]:
        before, self.variables = self.variables, dict(self.variables)
        try:
            return list(self._loop(node.elt, node.generators))
        finally:
            self.variables = before

    def _loop(self, item: ast.expr, generators: Sequence[ast.comprehension]) -> Iterator[Any]:
        if not generators:
            yield self.visit(item)
            return
        generator, *inner = generators
        for value in cast("Iterable[Any]", self.visit(generator.iter)):
            self.iterations += 1
            if self.iterations > MAX_ITEMS:
                raise ExpressionError(f"{ast.unparse(item)!r} is evaluated more than {MAX_ITEMS} times")
            self.variables[cast("ast.Name", generator.target).id] = value
            if all(self.visit(test) for test in generator.ifs):
                yield from self._loop(item, inner)

    def call(self, node: ast.Call) -> Any:
        name, arguments = cast("ast.Name", node.func).id, [self.visit(argument) for argument in node.args]
        return FUNCTIONS[name](*arguments) if name in FUNCTIONS else self.scope.call(name, arguments)


def _joined(left: Any, right: Any, node: ast.BinOp) -> str:
    """Two texts as one; other arithmetic with text is not allowed."""
    if not (isinstance(left, str) and isinstance(right, str) and isinstance(node.op, ast.Add)):
        raise ExpressionError(f"{ast.unparse(node)!r}: of text, only text + text is allowed")
    if len(left) + len(right) > _MAX_TEXT:
        raise ExpressionError(f"{ast.unparse(node)!r} would have more than {_MAX_TEXT} characters")
    return left + right


def _items(left: Any, right: Any, product: bool) -> float:
    """Number of items of the product or the sum of two values; 0 for two numbers."""
    if all(isinstance(side, int | float) for side in (left, right)):
        return 0
    first, second = (len(side) if isinstance(side, Sized) else float(side) for side in (left, right))
    return first * second if product else first + second


def _range(*bounds: int) -> list[int]:
    numbers = range(*bounds)
    if len(numbers) > MAX_ITEMS:
        raise ExpressionError(f"range of {len(numbers)} items: at most {MAX_ITEMS} are allowed")
    return list(numbers)


def _get(mapping: Mapping[str, Any] | None, key: str, default: Any = None) -> Any:
    return default if mapping is None or key not in mapping else mapping[key]


def _at(value: Any, index: int) -> Any:
    return value[index] if isinstance(value, Sequence) and not isinstance(value, str) else value


def _str(number: int) -> str:
    return f"{number:d}"


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "all": all,
    "any": any,
    "at": _at,
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
    "str": _str,
    "sum": sum,
}
"""The functions that every expression may call."""

_VISITORS: dict[type[ast.expr], Callable[[_Evaluator, Any], Any]] = {
    ast.Constant: lambda self, node: node.value,
    ast.Name: _Evaluator.name,
    ast.BoolOp: _Evaluator.and_or,
    ast.UnaryOp: lambda self, node: _OPERATORS[type(node.op)](self.visit(node.operand)),
    ast.BinOp: _Evaluator.arithmetic,
    ast.Compare: _Evaluator.comparison,
    ast.IfExp: lambda self, node: self.visit(node.body if self.visit(node.test) else node.orelse),
    ast.List: lambda self, node: [self.visit(item) for item in node.elts],
    ast.Dict: _Evaluator.dictionary,
    ast.Subscript: _Evaluator.subscript,
    ast.ListComp: _Evaluator.comprehension,
    ast.Call: _Evaluator.call,
}
_operator: Any = operator  # Any: the stubs accept numbers only, but an operand may be any value of a config
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: _operator.add,
    ast.Sub: _operator.sub,
    ast.Mult: _operator.mul,
    ast.Div: _operator.truediv,
    ast.FloorDiv: _operator.floordiv,
    ast.Mod: _operator.mod,
    ast.Pow: _operator.pow,
    ast.USub: _operator.neg,
    ast.Not: _operator.not_,
    ast.Eq: _operator.eq,
    ast.NotEq: _operator.ne,
    ast.Lt: _operator.lt,
    ast.LtE: _operator.le,
    ast.Gt: _operator.gt,
    ast.GtE: _operator.ge,
    ast.Is: _operator.is_,
    ast.IsNot: _operator.is_not,
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
}
