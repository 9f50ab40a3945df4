"""Solve an expression for the config keys in it: find values of the keys for which it has a given value."""

import ast
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

from blockformer.huggingface.config import EACH, Config
from blockformer.huggingface.expression import ExpressionError, evaluate, is_expression, parse
from blockformer.huggingface.family import Family, as_list
from blockformer.huggingface.family_file import Template
from blockformer.huggingface.operand_solver import PlaceSolver, unknown_operand
from blockformer.huggingface.partial_config import ConflictError, KnownItems, KnownKeys, PartialConfig, matches
from blockformer.huggingface.template import TemplateContext
from registry import RecipeError


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

    def evaluate(self, node: ast.expr, environment: Environment, *, closed: bool = False) -> tuple[bool, Any]:
        """Whether the keys known so far determine an expression, and its value if they do.

        Args:
            node: the expression.
            environment: what its names mean.
            closed: mappings of the config have no other keys than those that are known.
        """
        names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        variables = dict(environment.variables)
        for name in names & set(environment.arguments):
            argument, outer = environment.arguments[name]
            known, variables[name] = self.evaluate(argument, outer, closed=closed)
            if not known:
                return False, None
        config = Config(self.keys.known(closed=closed))
        context = TemplateContext(self.family, config, variables, active=environment.active, defaults=False)
        try:
            value = evaluate(node, context)
            return not isinstance(value, KnownKeys | KnownItems), value
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
        known, result = self.evaluate(node, environment, closed=True)
        if known and matches(result, value):
            return
        if known and self.evaluate(node, environment)[0]:  # no key that is found later changes it
            raise ConflictError(f"{ast.unparse(node)} is {result}, not {value}", found=result)
        if not self._invert(node, value, environment):
            if known:
                raise ConflictError(f"{ast.unparse(node)} is {result}, not {value}", found=result)
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
                self._require_one(node.values, truth, environment)
            case ast.Name():
                self._require_name(node.id, truth, environment)
            case ast.IfExp():
                self.solve_condition(node.test, {True: node.body, False: node.orelse}, truth, environment)
            case ast.Compare(ops=[operation], comparators=[other]):
                self._require_comparison(node.left, operation, other, truth, environment)
            case _:
                pass

    def _require_one(self, operands: list[ast.expr], truth: bool, environment: Environment) -> None:
        """Find keys for which one of several conditions is true, or false; none if one is so already."""
        found = (self.evaluate(operand, environment) for operand in operands)
        if not any(known and bool(value) is truth for known, value in found):
            self.first(*(partial(self.require, operand, truth, environment) for operand in operands))

    def _require_comparison(
        self, left: ast.expr, operation: ast.cmpop, other: ast.expr, truth: bool, environment: Environment
    ) -> None:
        """Find keys for which two sides are equal, or for which a key has another of its values in ``fixed``."""
        known, value = self.evaluate(other, environment)
        if not known or not isinstance(operation, ast.Eq | ast.Is | ast.NotEq | ast.IsNot):
            return
        if isinstance(operation, ast.Eq | ast.Is) is truth:
            self.equal(left, value, environment)
            return
        others = [one for one in self._choices(left) if not matches(one, value)]
        if len(others) == 1:
            self.equal(left, others[0], environment)

    def _choices(self, node: ast.expr) -> list[Any]:
        """The values that ``fixed`` allows for a key, or for an item of a list."""
        fixed = self.family.section("fixed")
        match node:
            case ast.Name(id=name):
                return as_list(fixed.get(name))
            case ast.Subscript(value=ast.Name(id=name)):
                return as_list(fixed.get(f"{name}.{EACH}"))
            case _:
                return []

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
                return self._invert_inside(node.value, [node.slice], value, environment)
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
            default = self.family.default(name)
            usual = default is None or default == [] or default == {}
            self.keys.guess((name,), default if usual and not truth else truth)
        elif is_expression(template.body):
            self.require(parse(template.body), truth, environment.inside(name))

    def _invert_call(self, node: ast.Call, value: Any, environment: Environment) -> bool:
        name = cast("ast.Name", node.func).id
        if name == "get":
            mapping, key, *default = node.args
            known, default_value = self.evaluate(default[0], environment, closed=True) if default else (True, None)
            omitted = known and matches(default_value, value)
            return omitted or self._invert_inside(mapping, [key], value, environment)
        if name == "at":
            return self._invert_inside(node.args[0], [node.args[1]], value, environment, plain=True)
        template = self.family.templates.get(name)
        if template is None:
            return False
        self.solve_template(template.body, value, self.called(template, node, environment))
        return True

    def called(self, template: Template, node: ast.Call, environment: Environment) -> Environment:
        """The environment inside a function of the family."""
        arguments = {p: (argument, environment) for p, argument in zip(template.parameters, node.args, strict=True)}
        return replace(environment, arguments=arguments).inside(cast("ast.Name", node.func).id)

    def _invert_inside(
        self, base: ast.expr, keys: list[ast.expr], value: Any, environment: Environment, *, plain: bool = False
    ) -> bool:
        """Solve ``base[key]``, ``base[key][key]`` and so on.

        Args:
            base: the mapping or list.
            keys: expressions for the keys, the outermost first.
            value: the value there.
            environment: what the names mean.
            plain: the base may also be the value itself.
        """
        path = list[str | int]()
        for key in keys:
            known, index = self.evaluate(key, environment)
            if not known or not isinstance(index, str | int):
                return False
            path.append(index)
        by_layer = any(isinstance(part, ast.Name) and part.id == "layer" for part in ast.walk(keys[-1]))
        items = environment.variables.get("depth") if by_layer and isinstance(path[-1], int) else None
        return PlaceSolver(self, tuple(path), value, items, plain).solve(base, environment)

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
        operand = None if left == right else unknown_operand(node.op, value, a if left else None, b if right else None)
        if operand is None:
            return False
        self.equal(node.left if right else node.right, operand, environment)
        return True
