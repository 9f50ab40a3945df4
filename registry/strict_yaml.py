"""YAML read strictly: the 1.2 core types, no tags, no duplicate keys, and every value remembers its line."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from registry.errors import Mark, Problem, RecipeError

MAX_BYTES = 1_000_000
MAX_NODES = 100_000  # counted after aliases are followed, so that nested aliases cannot explode
MAX_DEPTH = 100
PLAIN_TAGS = frozenset({"map", "seq", "str", "int", "float", "bool", "null"})


class Map(dict[str, Any]):
    """A mapping with the file and line of itself (``mark``) and of each key (``marks``)."""

    def __init__(self, items: Any = (), marks: dict[str, Mark] | None = None, mark: Mark | None = None) -> None:
        super().__init__(items)
        self.marks: dict[str, Mark] = dict(marks or {})
        self.mark = mark


class Seq(list[Any]):
    """A sequence with the file and line of each item (``marks``)."""

    def __init__(self, items: Any = (), marks: list[Mark] | None = None) -> None:
        super().__init__(items)
        self.marks: list[Mark] = list(marks or [])


class _Loader(yaml.SafeLoader):
    """YAML 1.2 core schema: `1e-3` is a number, `no` and `12:30` are strings."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (the base class's table, replaced)


def _resolve(tag: str, pattern: str, first: str) -> None:
    cast("Any", _Loader).add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))


_resolve("null", r"~|null|Null|NULL|", "~nN")
_resolve("bool", r"true|True|TRUE|false|False|FALSE", "tTfF")
_resolve("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789")
_resolve(
    "float",
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "-+0123456789.",
)
cast("Any", _Loader).yaml_implicit_resolvers.setdefault("", []).append(("tag:yaml.org,2002:null", re.compile("^$")))


def read_yaml(path: Path) -> Map:
    """Read a recipe file.

    Raises:
        RecipeError: it cannot be read, is not YAML, or is not one mapping.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8")
    except OSError as error:
        raise _failure(Mark(str(path)), f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise _failure(Mark(str(path)), "is not UTF-8 text") from error
    if len(data) > MAX_BYTES:
        raise _failure(Mark(str(path)), f"has {len(data)} bytes; a recipe has at most {MAX_BYTES}")
    value = parse_text(text, str(path))
    if not isinstance(value, Map):
        raise _failure(Mark(str(path), 1), "a recipe must be a mapping of keys to values")
    return value


def parse_text(text: str, source: str, *, lines: bool = True) -> Any:
    """Parse one YAML document into Map, Seq and scalars; ``source`` names it in errors, with the line if ``lines``.

    Raises:
        RecipeError: the text is not YAML, or uses a feature that recipes do not have.
    """
    try:
        node = cast("yaml.Node | None", cast("Any", yaml).compose(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        remedy = "; indent with spaces, not tabs" if error.problem and "'\\t'" in error.problem else ""
        mark = Mark(source, at.line + 1 if at and lines else None)
        raise _failure(mark, f"is not YAML: {error.problem}{remedy}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise _failure(Mark(source), f"is not YAML: {str(error).splitlines()[0]}") from error
    return None if node is None else _Builder(source).value(node)


class _Builder:
    def __init__(self, source: str) -> None:
        self.source = source
        self.nodes = 0

    def value(self, node: yaml.Node, depth: int = 0) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            raise _failure(self.mark(node), "is too large or too deeply nested (aliases counted where they are used)")
        if node.tag.removeprefix("tag:yaml.org,2002:") not in PLAIN_TAGS:
            raise _failure(self.mark(node), f"tag {node.tag!r} is not allowed: a recipe is plain data")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, depth)
        if isinstance(node, yaml.SequenceNode):
            return Seq([self.value(item, depth + 1) for item in node.value], [self.mark(item) for item in node.value])
        return self.scalar(node)

    def scalar(self, node: yaml.Node) -> Any:
        kind, text = node.tag.rpartition(":")[2], str(node.value)
        if kind == "int":
            return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
        if kind == "float":
            return float(re.sub(r"\.(inf|nan)$", r"\1", text.lower()))
        if kind == "bool":
            return text.lower() == "true"
        return None if kind == "null" else text

    def mapping(self, node: yaml.MappingNode, depth: int) -> Map:
        result = Map(mark=self.mark(node))
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str) or key_node.tag == "tag:yaml.org,2002:merge" or key == "<<":
                raise _failure(
                    self.mark(key_node), "keys must be plain names; to start from another layer write 'like: name'"
                )
            if key in result:
                raise _failure(
                    self.mark(key_node), f"key {key!r} is given twice; first at line {result.marks[key].line}"
                )
            result[key], result.marks[key] = self.value(value_node, depth + 1), self.mark(key_node)
        return result

    def mark(self, node: yaml.Node) -> Mark:
        return Mark(self.source, node.start_mark.line + 1)


def _failure(mark: Mark, message: str) -> RecipeError:
    return RecipeError([Problem(mark, "", message)])


def mark_of(root: Map, path: Iterable[str | int]) -> Mark:
    """The mark of the deepest key on ``path`` that was written somewhere."""
    mark, tree = root.mark or Mark("recipe"), cast("Any", root)
    for key in path:
        marks = getattr(tree, "marks", None)
        try:
            tree = tree[key]
            mark = marks[key] if marks else mark
        except (KeyError, IndexError, TypeError):
            break
    return mark


def dotted(path: Iterable[str | int]) -> str:
    """A key path as recipes and overrides write it."""
    return ".".join(map(str, path))


def as_plain(value: Any) -> Any:
    """Map and Seq as plain mappings and tuples, which is what pydantic's strict mode expects of Python data."""
    if isinstance(value, Mapping):
        return {key: as_plain(item) for key, item in cast("Mapping[str, Any]", value).items()}
    return tuple(as_plain(item) for item in cast("list[Any]", value)) if isinstance(value, list | tuple) else value


def with_mark(value: Any, mark: Mark) -> Any:
    """SitelessFactory data as Map and Seq, everything written at ``mark``."""
    if isinstance(value, Mapping):
        items = {str(key): with_mark(item, mark) for key, item in cast("Mapping[Any, Any]", value).items()}
        return Map(items, dict.fromkeys(items, mark), mark)
    if isinstance(value, list | tuple):
        items = [with_mark(item, mark) for item in cast("list[Any]", value)]
        return Seq(items, [mark] * len(items))
    return value
