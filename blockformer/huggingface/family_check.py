"""Check a family file when it is loaded: names in ``let``, and the syntax and the functions of all expressions."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from blockformer.huggingface.errors import HuggingFaceError
from blockformer.huggingface.expression import FUNCTIONS, ExpressionError, calls, is_expression, parse
from registry import Mark, Problem
from registry.errors import nearest
from registry.strict_yaml import Map, Seq

_SIGNATURE = re.compile(r"(\w+)(?:\(([\w, ]*)\))?")
_CUT = re.compile(r"was never closed|unterminated|unexpected EOF|expected ':'")  # by a comma or a # that ends the text
_QUOTE = "; in YAML, quote an expression that contains [ ] { } , # or ': '"


@dataclass(frozen=True)
class Template:
    """An entry of ``let``: a named value, or a function if it has parameters."""

    parameters: tuple[str, ...]
    body: Any
    mark: Mark


def checked_expressions(tree: Map, known_templates: Mapping[str, Template]) -> list[str]:
    """Every expression of a family.

    Raises:
        HuggingFaceError: some are not valid, or call unknown functions; the error lists all of them.
    """
    found, problems = list(_all_expressions(tree)), list[Problem]()
    known = {*FUNCTIONS, *(name for name, template in known_templates.items() if template.parameters)}
    for mark, path, text in found:
        try:
            unknown = sorted(calls(parse(text)) - known)
        except ExpressionError as error:
            problems.append(Problem(mark, path, str(error) + _QUOTE * bool(_CUT.search(str(error)))))
            continue
        for name in unknown:
            hint = nearest(name, known) or f"known: {', '.join(sorted(known))}"
            problems.append(Problem(mark, path, f"unknown function {name!r}; {hint}"))
    if problems:
        raise HuggingFaceError(problems)
    return [text for _, _, text in found]


def expressions_in(node: Any) -> list[str]:
    """Every expression in a template."""
    return [node] if is_expression(node) else [text for _, _, text in _expressions_in(node, "")]


def templates(section: Map) -> Iterator[tuple[str, Template]]:
    """The entries of the section ``let``, by their names.

    Raises:
        HuggingFaceError: a key is neither a name nor a function.
    """
    for key, body in section.items():
        found = _SIGNATURE.fullmatch(key)
        if not found:
            raise HuggingFaceError.at(section.marks[key], f"{key!r} is neither a name nor name(parameter, ...)", "let")
        parameters = tuple(name.strip() for name in (found[2] or "").split(",") if name.strip())
        yield found[1], Template(parameters, body, section.marks[key])


def _all_expressions(tree: Map) -> Iterator[tuple[Mark, str, str]]:
    """Every expression with its line and its dotted path; those of ``require`` have no leading ``=``."""
    yield from _expressions_in(tree, "")
    require = tree.get("require")
    if isinstance(require, Map):
        yield from ((require.marks[text], "require", text) for text in require)


def _expressions_in(node: Any, path: str) -> Iterator[tuple[Mark, str, str]]:
    if isinstance(node, Map):
        items: Iterator[tuple[Any, Any, Any]] = ((key, node[key], node.marks[key]) for key in node)
    elif isinstance(node, Seq):
        items = ((index, item, mark) for index, (item, mark) in enumerate(zip(node, node.marks, strict=True)))
    else:
        return
    for key, value, mark in items:
        inner = f"{path}.{key}" if path else str(key)
        if is_expression(value) or (key in ("if", "where") and isinstance(value, str)):
            yield mark, inner, value
        else:
            yield from _expressions_in(value, inner)
