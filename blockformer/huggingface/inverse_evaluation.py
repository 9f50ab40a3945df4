"""Solve an expression for the config keys in it: find values of the keys for which it has a given value."""

import ast
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

from blockformer.huggingface.expression import ExpressionError, evaluate, is_expression, parse
from blockformer.huggingface.family import Family, Template
from blockformer.huggingface.partial_config import ConflictError, PartialConfig, matches
from blockformer.huggingface.template import Config, TemplateContext
from registry import RecipeError
from registry.strict_yaml import Map


@dataclass(frozen=True)
class Environment:
    """What names mean at one place of a template.

    Attributes:
        variables: names with a known value, such as ``layer``.
        arguments: for each parameter of the enclosing function of the family, the expression passed for it and the
            environment of that.
        active: the enclosing templates; inside its own template, a name means the config's key.
    """

    variables: Mapping[str, Any] = field(default_factory=dict[str, Any])
    arguments: Mapping[str, "tuple[ast.expr, Environment]"] = field(
        default_factory=dict[str, "tuple[ast.expr, Environment]"]
    )
    active: tuple[str, ...] = ()

    def inside(self, name: str) -> "Environment":
        """The environment inside a template."""
        return replace(self, active=(*self.active, name))


class ExpressionSolver(ABC):
    """Solves expressions for config keys; a subclass solves templates.

    Args:
        family: its templates.
        keys: the keys that are known already.
    """

    def __init__(self, family: Family, keys: PartialConfig) -> None:
        self.family, self.keys = family, keys
        self.pending: list[tuple[ast.expr, Any, Environment]] = []  # equations that cannot be solved yet

    @abstractmethod
    def solve_template(self, node: Any, value: Any, environment: Environment) -> None:
        """Find keys for which a template has a value.

        Raises:
            ConflictError: there are none.
        """

    @abstractmethod
    def solve_condition(
        self, test: ast.expr, branches: Mapping[bool, Any], value: Any, environment: Environment
    ) -> None:
        """Find keys for which the branch that a condition selects has a value.

        Raises:
            ConflictError: there are none.
        """

    def evaluate(self, node: ast.expr, environment: Environment) -> tuple[bool, Any]:
        """Whether the keys known so far determine an expression, and its value if they do."""
        names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        variables = dict(environment.variables)
        for name in names & set(environment.arguments):
            known, variables[name] = self.evaluate(*environment.arguments[name])
            if not known:
                return False, None
        config = Config(self.keys.config())
        context = TemplateContext(self.family, config, variables, active=environment.active, defaults=False)
        try:
            return True, evaluate(node, context)
        except (ExpressionError, RecipeError):
            return False, None

    def first(self, *options: Callable[[], None]) -> None:
        """Take the first option that does not conflict.

        Raises:
            ConflictError: all options conflict.
        """
        conflict = ConflictError("there are no options")
        for option in options:
            keys, pending = self.keys.copy(), list(self.pending)
            try:
                return option()
            except ConflictError as error:
                self.keys, self.pending, conflict = keys, pending, error
        raise conflict

    def equal(self, node: ast.expr, value: Any, environment: Environment) -> None:
        """Find keys for which an expression has a value; an equation that cannot be solved yet becomes pending.

        Raises:
            ConflictError: there are none.
        """
        known, result = self.evaluate(node, environment)
        if known and not matches(result, value):
            raise ConflictError(f"{ast.unparse(node)} is {result}, not {value}", found=result)
        if not known and not self._invert(node, value, environment):
            self.pending.append((node, value, environment))

    def require(self, node: ast.expr, truth: bool, environment: Environment) -> None:
        """Find keys for which a condition is true, or false; a condition of another form is left undecided.

        Raises:
            ConflictError: there are none.
        """
        known, result = self.evaluate(node, environment)
        if known and bool(result) is not truth:
            raise ConflictError(f"{ast.unparse(node)} is {result}")
        if known:
            return
        match node:
            case ast.UnaryOp(op=ast.Not()):
                self.require(node.operand, not truth, environment)
            case ast.BoolOp() if isinstance(node.op, ast.And) is truth:
                for operand in node.values:
                    self.require(operand, truth, environment)
            case ast.BoolOp():
                self.first(*(partial(self.require, operand, truth, environment) for operand in node.values))
            case ast.Name():
                self._require_name(node.id, truth, environment)
            case ast.Compare(ops=[ast.Eq() | ast.Is()], comparators=[other]) if truth:
                known, value = self.evaluate(other, environment)
                if known:
                    self.equal(node.left, value, environment)
            case _:
                pass

    def _invert(self, node: ast.expr, value: Any, environment: Environment) -> bool:
        """Solve an expression whose value is not determined yet; False if that is not possible (yet)."""
        match node:
            case ast.Name():
                self._invert_name(node.id, value, environment)
            case ast.BoolOp(op=ast.Or()):
                self.first(*(partial(self.equal, operand, value, environment) for operand in node.values))
            case ast.IfExp():
                self.solve_condition(node.test, {True: node.body, False: node.orelse}, value, environment)
            case ast.Subscript():
                return self._invert_item(node.value, node.slice, value, environment)
            case ast.Call():
                return self._invert_call(node, value, environment)
            case ast.BinOp():
                return self._invert_arithmetic(node, value, environment)
            case ast.Dict():
                return self._invert_dictionary(node, value, environment)
            case ast.BoolOp() | ast.Compare() | ast.UnaryOp() if isinstance(value, bool):
                self.require(node, value, environment)
            case _:
                return False
        return True

    def _template(self, name: str, environment: Environment) -> Template | None:
        """The template that a name means; None if it means a config key."""
        template = self.family.templates.get(name)
        return None if template is None or template.parameters or name in environment.active else template

    def _invert_name(self, name: str, value: Any, environment: Environment) -> None:
        if name in environment.arguments:
            node, outer = environment.arguments[name]
            self.equal(node, value, outer)
        elif (template := self._template(name, environment)) is None:
            self.keys.assign((name,), value)
        else:
            self.solve_template(template.body, value, environment.inside(name))

    def _require_name(self, name: str, truth: bool, environment: Environment) -> None:
        if name in environment.arguments:
            node, outer = environment.arguments[name]
            self.require(node, truth, outer)
        elif (template := self._template(name, environment)) is None:
            self.keys.guess((name,), truth)
        elif is_expression(template.body):
            self.require(parse(template.body), truth, environment.inside(name))

    def _invert_call(self, node: ast.Call, value: Any, environment: Environment) -> bool:
        name = cast("ast.Name", node.func).id
        if name == "get":
            mapping, key, *default = node.args
            known, default_value = self.evaluate(default[0], environment) if default else (True, None)
            return (known and default_value == value) or self._invert_item(mapping, key, value, environment)
        template = self.family.templates.get(name)
        if template is None:
            return False
        arguments = {p: (argument, environment) for p, argument in zip(template.parameters, node.args, strict=True)}
        self.solve_template(template.body, value, replace(environment, arguments=arguments).inside(name))
        return True

    def _invert_item(self, base: ast.expr, key: ast.expr, value: Any, environment: Environment) -> bool:
        """Solve ``base[key]``: follow names and merged dictionaries to a mapping in the config."""
        known, index = self.evaluate(key, environment)
        if not known:
            return False
        match base:
            case ast.Name(id=name) if name in environment.arguments:
                node, outer = environment.arguments[name]
                return self._invert_item(node, ast.Constant(index), value, outer)
            case ast.Name(id=name):
                template = self.family.templates.get(name)
                if template is not None and name not in environment.active:
                    body = self._branch(template.body, environment)
                    inner = environment.inside(name)
                    return is_expression(body) and self._invert_item(parse(body), key, value, inner)
                self.keys.assign((name, str(index)), value)
                return True
            case ast.BoolOp(op=ast.Or(), values=[first, *_]):
                return self._invert_item(first, key, value, environment)
            case ast.Dict():
                return self._invert_entry(base, index, value, environment)
            case _:
                return False

    def _branch(self, body: Any, environment: Environment) -> Any:
        """The branch of a template that its condition selects; None if that is not known yet."""
        if not isinstance(body, Map) or "if" not in body:
            return body
        known, truth = self.evaluate(parse(str(body["if"])), environment)
        return body.get("then" if truth else "else") if known else None

    def _invert_entry(self, base: ast.Dict, index: Any, value: Any, environment: Environment) -> bool:
        for key, part in zip(base.keys, base.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == index:
                self.equal(part, value, environment)
                return True
        merged = [part for key, part in zip(base.keys, base.values, strict=True) if key is None]
        return bool(merged) and self._invert_item(merged[0], ast.Constant(index), value, environment)

    def _invert_dictionary(self, node: ast.Dict, value: Any, environment: Environment) -> bool:
        if not isinstance(value, Mapping):
            raise ConflictError(f"{value} is not a mapping")
        given = cast("Mapping[str, Any]", value)
        for key, part in zip(node.keys, node.values, strict=True):
            self.equal(part, given if key is None else given.get(str(cast("ast.Constant", key).value)), environment)
        return True

    def _invert_arithmetic(self, node: ast.BinOp, value: Any, environment: Environment) -> bool:
        """Solve an operation with exactly one unknown operand."""
        (left, a), (right, b) = self.evaluate(node.left, environment), self.evaluate(node.right, environment)
        inverse = _INVERSES.get(type(node.op))
        if left == right or inverse is None or not isinstance(value, int | float):
            return False
        number = inverse[0](value, b) if right else inverse[1](value, a)
        self.equal(node.left if right else node.right, _rounded(number), environment)
        return True


_INVERSES: dict[type[ast.operator], tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    ast.Add: (lambda y, b: y - b, lambda y, a: y - a),
    ast.Sub: (lambda y, b: y + b, lambda y, a: a - y),
    ast.Mult: (lambda y, b: y / b, lambda y, a: y / a),
    ast.Div: (lambda y, b: y * b, lambda y, a: a / y),
    ast.FloorDiv: (lambda y, b: y * b, lambda y, a: a // y),
    ast.Pow: (lambda y, b: y ** (1 / b), lambda y, a: math.log(y, a)),
}
"""For y = a op b: a from (y, b), and b from (y, a)."""


def _rounded(number: float) -> float:
    """Without rounding errors of the inverse: 30.000000000000004 becomes 30."""
    short = float(f"{number:.13g}")
    return int(short) if short.is_integer() else short
