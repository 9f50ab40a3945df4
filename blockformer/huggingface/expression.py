"""Expressions in family files: a small part of Python, read as a syntax tree, which computes values and can do no more.

There is no attribute, no import, no call but of a fixed list of functions and of the family's own templates, and the
work that an expression may cause is bounded: a family file from a stranger is data.
"""

import ast
from functools import cache

OPERATIONS: tuple[type[ast.AST], ...] = (
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.USub, ast.Not, ast.And, ast.Or),
    *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Is, ast.IsNot, ast.In, ast.NotIn),
)
ALLOWED = (
    *(ast.Constant, ast.Name, ast.Load, ast.Store, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Compare, ast.IfExp),
    *(ast.List, ast.Dict, ast.Subscript, ast.Slice, ast.ListComp, ast.comprehension, ast.Call, *OPERATIONS),
)
MARK = "="


class ExpressionError(ValueError):
    """An expression is not one, or cannot be computed; the message says why."""


def is_expression(value: object) -> bool:
    """Whether a value in a family file is to be computed: a text that begins with ``=``."""
    return isinstance(value, str) and value.startswith(MARK)


@cache
def parse(text: str) -> ast.expr:
    """The syntax tree of an expression, found to use nothing but what is allowed; a leading ``=`` is left out.

    Raises:
        ExpressionError: it is not Python, or more than the part that is allowed.
    """
    text = text.removeprefix(MARK).strip()
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"{text!r} is not an expression: {getattr(error, 'msg', error)}") from None
    for node in ast.walk(tree):
        if not isinstance(node, ALLOWED):
            raise ExpressionError(f"{text!r} uses {type(node).__name__}, which expressions do not have")
        if isinstance(node, ast.Call) and (not isinstance(node.func, ast.Name) or node.keywords):
            raise ExpressionError(f"{text!r}: only functions by name can be called, with plain arguments")
        if isinstance(node, ast.comprehension) and not isinstance(node.target, ast.Name):
            raise ExpressionError(f"{text!r}: a comprehension can bind one name only")
    return tree


def names(tree: ast.expr) -> set[str]:
    """Every name that the expression mentions, those of functions and of its own comprehensions left out."""
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return found - bound - calls(tree)


def calls(tree: ast.expr) -> set[str]:
    """Every function that the expression calls."""
    return {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
