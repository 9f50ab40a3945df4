"""Expressions read backwards: what the names in one must be for it to have a value."""

import ast
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, cast

from blockformer.huggingface.expression import is_expression, parse
from blockformer.huggingface.family import Family
from blockformer.huggingface.keys import Around, ConflictError, Keys
from registry.strict_yaml import Map


class Backwards(Protocol):
    """What undoing an expression needs of the solver around it; see ``config_solver.Solver``."""

    family: Family
    keys: Keys

    def unify(self, node: Any, value: Any, around: Around) -> None: ...
    def decide(self, test: ast.expr, branches: Mapping[bool, Any], value: Any, around: Around) -> None: ...
    def known(self, node: ast.expr, around: Around) -> tuple[bool, Any]: ...
    def first(self, *options: Callable[[], None]) -> None: ...
    def equal(self, node: ast.expr, value: Any, around: Around) -> None: ...
    def true(self, node: ast.expr, truth: bool, around: Around) -> None: ...


def undone(solver: Backwards, node: ast.expr, value: Any, around: Around) -> bool:
    """Let an expression, which is not settled, give a value; False if that cannot be undone (yet).

    Raises:
        ConflictError: it cannot give this value.
    """
    match node:
        case ast.Name():
            _name(solver, node.id, value, around)
        case ast.BoolOp(op=ast.Or()):
            solver.first(*(partial(solver.equal, operand, value, around) for operand in node.values))
        case ast.IfExp():
            solver.decide(node.test, {True: node.body, False: node.orelse}, value, around)
        case ast.Subscript():
            return _item(solver, node.value, node.slice, value, around)
        case ast.Call():
            return _call(solver, node, value, around)
        case ast.BinOp():
            return _arithmetic(solver, node, value, around)
        case ast.Dict():
            return _dictionary(solver, node, value, around)
        case ast.BoolOp() | ast.Compare() | ast.UnaryOp() if isinstance(value, bool):
            solver.true(node, value, around)
        case _:
            return False
    return True


def decided(solver: Backwards, node: ast.expr, truth: bool, around: Around) -> None:
    """Let a condition, which is not settled, hold or not; what cannot be undone is left to the check that follows.

    Raises:
        ConflictError: it cannot.
    """
    match node:
        case ast.UnaryOp(op=ast.Not()):
            solver.true(node.operand, not truth, around)
        case ast.BoolOp() if isinstance(node.op, ast.And) is truth:
            for operand in node.values:
                solver.true(operand, truth, around)
        case ast.BoolOp():
            solver.first(*(partial(solver.true, operand, truth, around) for operand in node.values))
        case ast.Name():
            _truth(solver, node.id, truth, around)
        case ast.Compare(ops=[ast.Eq() | ast.Is()], comparators=[other]) if truth:
            settled, value = solver.known(other, around)
            if settled:
                solver.equal(node.left, value, around)
        case _:
            pass


def _name(solver: Backwards, name: str, value: Any, around: Around) -> None:
    if name in around.meant:
        node, outside = around.meant[name]
        solver.equal(node, value, outside)
        return
    template = solver.family.templates.get(name)
    if template is None or template.parameters or name in around.inside:
        solver.keys.find((name,), value)
    else:
        solver.unify(template.body, value, _inside(around, name))


def _truth(solver: Backwards, name: str, truth: bool, around: Around) -> None:
    template = solver.family.templates.get(name)
    if name in around.meant:
        node, outside = around.meant[name]
        solver.true(node, truth, outside)
    elif template is None or template.parameters or name in around.inside:
        solver.keys.guess((name,), truth)
    elif is_expression(template.body):
        solver.true(parse(template.body), truth, _inside(around, name))


def _call(solver: Backwards, node: ast.Call, value: Any, around: Around) -> bool:
    name = cast("ast.Name", node.func).id
    if name == "get":
        mapping, key, *default = node.args
        settled, otherwise = solver.known(default[0], around) if default else (True, None)
        return (settled and otherwise == value) or _item(solver, mapping, key, value, around)
    template = solver.family.templates.get(name)
    if template is None:
        return False
    meant = {p: (argument, around) for p, argument in zip(template.parameters, node.args, strict=True)}
    solver.unify(template.body, value, Around(around.known, meant, (*around.inside, name)))
    return True


def _item(solver: Backwards, base: ast.expr, key: ast.expr, value: Any, around: Around) -> bool:
    """Let ``base[key]`` give a value: follow names and merged mappings to the config's own mapping."""
    settled, index = solver.known(key, around)
    if not settled:
        return False
    match base:
        case ast.Name(id=name) if name in around.meant:
            node, outside = around.meant[name]
            return _item(solver, node, ast.Constant(index), value, outside)
        case ast.Name(id=name):
            template = solver.family.templates.get(name)
            if template is not None and name not in around.inside:
                body = _branch(solver, template.body, around)
                return is_expression(body) and _item(solver, parse(body), key, value, _inside(around, name))
            solver.keys.find((name, str(index)), value)
            return True
        case ast.BoolOp(op=ast.Or(), values=[first, *_]):
            return _item(solver, first, key, value, around)
        case ast.Dict():
            return _entry(solver, base, index, value, around)
        case _:
            return False


def _branch(solver: Backwards, body: Any, around: Around) -> Any:
    """What a template stands for, if its condition is settled."""
    if not isinstance(body, Map) or "if" not in body:
        return body
    settled, truth = solver.known(parse(str(body["if"])), around)
    return body.get("then" if truth else "else") if settled else None


def _entry(solver: Backwards, base: ast.Dict, index: Any, value: Any, around: Around) -> bool:
    for key, part in zip(base.keys, base.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == index:
            solver.equal(part, value, around)
            return True
    merged = [part for key, part in zip(base.keys, base.values, strict=True) if key is None]
    return bool(merged) and _item(solver, merged[0], ast.Constant(index), value, around)


def _dictionary(solver: Backwards, node: ast.Dict, value: Any, around: Around) -> bool:
    if not isinstance(value, Mapping):
        raise ConflictError(f"a mapping is not {value}")
    given = cast("Mapping[str, Any]", value)
    for key, part in zip(node.keys, node.values, strict=True):
        solver.equal(part, given if key is None else given.get(str(cast("ast.Constant", key).value)), around)
    return True


def _arithmetic(solver: Backwards, node: ast.BinOp, value: Any, around: Around) -> bool:
    """Undo an operation with one unknown operand."""
    (left, a), (right, b) = solver.known(node.left, around), solver.known(node.right, around)
    inverse = _INVERSES.get(type(node.op))
    if left == right or inverse is None or not isinstance(value, int | float):
        return False
    number = inverse[0](value, b) if right else inverse[1](value, a)
    solver.equal(node.left if right else node.right, _tidy(number), around)
    return True


_INVERSES: dict[type[ast.operator], tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    ast.Add: (lambda y, b: y - b, lambda y, a: y - a),
    ast.Sub: (lambda y, b: y + b, lambda y, a: a - y),
    ast.Mult: (lambda y, b: y / b, lambda y, a: y / a),
    ast.Div: (lambda y, b: y * b, lambda y, a: a / y),
    ast.FloorDiv: (lambda y, b: y * b, lambda y, a: a // y),
    ast.Pow: (lambda y, b: y ** (1 / b), lambda y, a: math.log(y, a)),
}


def _tidy(number: float) -> float:
    """Without what rounding has left: 30.000000000000004 was 30."""
    short = float(f"{number:.13g}")
    return int(short) if short.is_integer() else short


def _inside(around: Around, name: str) -> Around:
    return Around(around.known, around.meant, (*around.inside, name))
