"""A family: one YAML file that turns a published architecture's config and tensors into a recipe and parameters."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

from blockformer.huggingface.errors import InterchangeError
from blockformer.huggingface.evaluation import FUNCTIONS
from blockformer.huggingface.expression import ExpressionError, calls, is_expression, names, parse
from registry import Mark, Problem
from registry.errors import nearest
from registry.strict_yaml import Map, Seq

MAPPINGS = ("match", "defaults", "fixed", "require", "let", "recipe", "tensors", "tied", "leaves", "export")
LISTS = ("ignore", "unused")
TEXTS = ("extends", "about", "source")
LOCALS = frozenset({"layer", "depth", "tensors", "recipe", "layers"})
SIGNATURE = re.compile(r"(\w+)(?:\(([\w, ]*)\))?")


@dataclass(frozen=True)
class Template:
    """A named part of a recipe, or a function that gives one."""

    parameters: tuple[str, ...]
    body: Any
    mark: Mark


class Family:
    """A checked family file, with all that it builds on laid under it.

    Args:
        name: as messages name it.
        path: its file.
        tree: what the file says, together with what it extends.
        bases: names of what it extends, the nearest first.

    Raises:
        InterchangeError: a section or an expression is wrong; all such places are named.
    """

    def __init__(self, name: str, path: Path, tree: Map, bases: tuple[str, ...] = ()) -> None:
        self.name, self.path, self.tree, self.bases = name, path, tree, bases
        _check_sections(path, tree)
        self.templates = dict(_templates(self.section("let")))
        self._expressions = list(_expressions(tree))
        _check_expressions(self._expressions, self.templates)

    def section(self, name: str) -> Map:
        """A section that is a mapping; empty if the file has none."""
        return cast("Map", self.tree.get(name) or Map(mark=Mark(str(self.path))))

    def listed(self, name: str) -> list[str]:
        """A section that is a list; empty if the file has none."""
        return list(cast("Sequence[str]", self.tree.get(name) or ()))

    @property
    def about(self) -> str:
        """One line about it."""
        return str(self.tree.get("about", ""))

    @property
    def models(self) -> list[str]:
        """The ``model_type``s that it reads; none: it is only there to be extended."""
        return as_list(self.section("match").get("model_type"))

    @property
    def architectures(self) -> list[str]:
        """The classes whose folders it reads."""
        return as_list(self.section("match").get("architectures"))

    def ignores(self, key: str) -> bool:
        """Whether a config key is known not to touch the logits."""
        return any(fnmatchcase(key, pattern) for pattern in self.listed("ignore"))

    @property
    def keys(self) -> set[str]:
        """Every config key that it mentions."""
        mentioned = {name for _, _, text in self._expressions for name in names(parse(text))}
        own = {parameter for template in self.templates.values() for parameter in template.parameters}
        return (mentioned - own - LOCALS) | set(self.section("defaults")) | set(self.section("fixed"))


def as_list(value: Any) -> list[Any]:
    """A list as it is, one value as a list of it, nothing as an empty one."""
    if value is None:
        return []
    return list(cast("Sequence[Any]", value)) if isinstance(value, list) else [value]


def _check_sections(path: Path, tree: Map) -> None:
    kinds = {**dict.fromkeys(MAPPINGS, Map), **dict.fromkeys(LISTS, Seq), **dict.fromkeys(TEXTS, str)}
    problems: list[Problem] = []
    for key, value in tree.items():
        if key not in kinds:
            hint = nearest(key, kinds) or f"known: {', '.join(kinds)}"
            problems.append(Problem(tree.marks[key], key, f"a family has no such section; {hint}"))
        elif value is not None and not isinstance(value, kinds[key]):
            wish = {Map: "a mapping", Seq: "a list", str: "text"}[kinds[key]]
            problems.append(Problem(tree.marks[key], key, f"must be {wish}"))
    if problems:
        raise InterchangeError(problems)


def _templates(section: Map) -> Iterator[tuple[str, Template]]:
    for key, body in section.items():
        found = SIGNATURE.fullmatch(key)
        if not found:
            raise InterchangeError.at(section.marks[key], f"{key!r} is neither a name nor name(parameter, ...)", "let")
        parameters = tuple(name.strip() for name in (found[2] or "").split(",") if name.strip())
        yield found[1], Template(parameters, body, section.marks[key])


def _expressions(tree: Map) -> Iterator[tuple[Mark, str, str]]:
    """Every expression with its mark and its path; those of ``require`` are written without ``=``."""
    yield from _within(tree, "")
    require = tree.get("require")
    if isinstance(require, Map):
        yield from ((require.marks[text], "require", text) for text in require)


def _within(node: Any, path: str) -> Iterator[tuple[Mark, str, str]]:
    if isinstance(node, Map):
        items: Iterator[tuple[Any, Any, Any]] = ((key, node[key], node.marks[key]) for key in node)
    elif isinstance(node, Seq):
        items = ((index, item, mark) for index, (item, mark) in enumerate(zip(node, node.marks, strict=True)))
    else:
        return
    for key, value, mark in items:
        inner = f"{path}.{key}" if path else str(key)
        if is_expression(value) or (key == "if" and isinstance(value, str)):
            yield mark, inner, value
        else:
            yield from _within(value, inner)


def _check_expressions(expressions: list[tuple[Mark, str, str]], templates: dict[str, Template]) -> None:
    problems: list[Problem] = []
    known = {*FUNCTIONS, *(name for name, template in templates.items() if template.parameters)}
    for mark, path, text in expressions:
        try:
            unknown = sorted(calls(parse(text)) - known)
        except ExpressionError as error:
            problems.append(Problem(mark, path, str(error)))
            continue
        for name in unknown:
            hint = nearest(name, known) or f"known: {', '.join(sorted(known))}"
            problems.append(Problem(mark, path, f"there is no function {name!r}; {hint}"))
    if problems:
        raise InterchangeError(problems)
