"""The values of expressions, within bounds."""

import ast
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, Protocol, cast

from blockformer.huggingface.expression import ExpressionError
from blockformer.huggingface.functions import FUNCTIONS, MOST
from registry import RecipeError


class Scope(Protocol):
    """What the names in an expression stand for."""

    def value(self, name: str) -> Any:
        """The value of a name.

        Raises:
            ExpressionError: it has none.
        """
        ...

    def call(self, name: str, arguments: Sequence[Any]) -> Any:
        """The value of a function of the family's own.

        Raises:
            ExpressionError: there is no such function.
        """
        ...


def evaluate(tree: ast.expr, scope: Scope) -> Any:
    """The value of an expression.

    Raises:
        ExpressionError: a name is unknown, or the values do not fit the operation.
    """
    try:
        return _Evaluation(scope).of(tree)
    except (ExpressionError, RecipeError):
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise ExpressionError(f"{ast.unparse(tree)!r} cannot be computed: {reason}") from None


class _Evaluation:
    """One expression's, with the names that its comprehensions have bound."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.bound: dict[str, Any] = {}
        self.turns = 0

    def of(self, node: ast.expr) -> Any:
        return _COMPUTE[type(node)](self, node)

    def name(self, node: ast.Name) -> Any:
        return self.bound[node.id] if node.id in self.bound else self.scope.value(node.id)

    def either(self, node: ast.BoolOp) -> Any:
        value: Any = None
        for operand in node.values:
            value = self.of(operand)
            if bool(value) is isinstance(node.op, ast.Or):
                break
        return value

    def arithmetic(self, node: ast.BinOp) -> Any:
        left, right = self.of(node.left), self.of(node.right)
        if isinstance(left, str) or isinstance(right, str):
            raise ExpressionError(f"{ast.unparse(node)!r} computes with text")
        if isinstance(node.op, ast.Pow) and (abs(left) > 1e6 or abs(right) > 16):
            raise ExpressionError(f"{ast.unparse(node)!r} is more than an expression may compute")
        if isinstance(node.op, ast.Mult | ast.Add) and _items(left, right, isinstance(node.op, ast.Mult)) > MOST:
            raise ExpressionError(f"{ast.unparse(node)!r} would have more than {MOST} items")
        return _OPERATORS[type(node.op)](left, right)

    def comparison(self, node: ast.Compare) -> bool:
        left = self.of(node.left)
        for operation, comparator in zip(node.ops, node.comparators, strict=True):
            right = self.of(comparator)
            if not _OPERATORS[type(operation)](left, right):
                return False
            left = right
        return True

    def mapping(self, node: ast.Dict) -> Mapping[str, Any]:
        result: Mapping[str, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            result = cast("Any", result) | (self.of(value) if key is None else {self.of(key): self.of(value)})
        return result

    def item(self, node: ast.Subscript) -> Any:
        if isinstance(part := node.slice, ast.Slice):
            bounds = (None if bound is None else self.of(bound) for bound in (part.lower, part.upper, part.step))
            return self.of(node.value)[slice(*bounds)]
        return self.of(node.value)[self.of(part)]

    def comprehension(self, node: ast.ListComp) -> list[Any]:
        before, self.bound = self.bound, dict(self.bound)
        try:
            return list(self._items(node.elt, node.generators))
        finally:
            self.bound = before

    def _items(self, item: ast.expr, generators: Sequence[ast.comprehension]) -> Iterator[Any]:
        if not generators:
            yield self.of(item)
            return
        generator, *inner = generators
        for value in cast("Iterable[Any]", self.of(generator.iter)):
            self.turns += 1
            if self.turns > MOST:
                raise ExpressionError(f"{ast.unparse(item)!r} is computed more than {MOST} times")
            self.bound[cast("ast.Name", generator.target).id] = value
            if all(self.of(test) for test in generator.ifs):
                yield from self._items(item, inner)

    def call(self, node: ast.Call) -> Any:
        name, arguments = cast("ast.Name", node.func).id, [self.of(argument) for argument in node.args]
        return FUNCTIONS[name](*arguments) if name in FUNCTIONS else self.scope.call(name, arguments)


def _within(item: Any, items: Any) -> bool:
    return item in items


def _without(item: Any, items: Any) -> bool:
    return item not in items


_COMPUTE: dict[type[ast.expr], Callable[[_Evaluation, Any], Any]] = {
    ast.Constant: lambda self, node: node.value,
    ast.Name: _Evaluation.name,
    ast.BoolOp: _Evaluation.either,
    ast.UnaryOp: lambda self, node: _OPERATORS[type(node.op)](self.of(node.operand)),
    ast.BinOp: _Evaluation.arithmetic,
    ast.Compare: _Evaluation.comparison,
    ast.IfExp: lambda self, node: self.of(node.body if self.of(node.test) else node.orelse),
    ast.List: lambda self, node: [self.of(item) for item in node.elts],
    ast.Dict: _Evaluation.mapping,
    ast.Subscript: _Evaluation.item,
    ast.ListComp: _Evaluation.comprehension,
    ast.Call: _Evaluation.call,
}
_plain: Any = operator  # whose functions are typed for numbers, while ours take what they get
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: _plain.add,
    ast.Sub: _plain.sub,
    ast.Mult: _plain.mul,
    ast.Div: _plain.truediv,
    ast.FloorDiv: _plain.floordiv,
    ast.Mod: _plain.mod,
    ast.Pow: _plain.pow,
    ast.USub: _plain.neg,
    ast.Not: _plain.not_,
    ast.Eq: _plain.eq,
    ast.NotEq: _plain.ne,
    ast.Lt: _plain.lt,
    ast.LtE: _plain.le,
    ast.Gt: _plain.gt,
    ast.GtE: _plain.ge,
    ast.Is: _plain.is_,
    ast.IsNot: _plain.is_not,
    ast.In: _within,
    ast.NotIn: _without,
}


def _items(left: Any, right: Any, product: bool) -> float:
    """How many items the product or the sum of two values has, 0 if it is a number."""
    if all(isinstance(side, int | float) for side in (left, right)):
        return 0
    first, second = (len(side) if isinstance(side, Sized) else float(side) for side in (left, right))
    return first * second if product else first + second
