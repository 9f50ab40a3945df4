"""YAML read strictly: the 1.2 core types, no tags, no duplicate keys, and every value remembers its line."""

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import yaml
from yaml.composer import Composer
from yaml.resolver import Resolver

from registry.errors import Mark, Problem, RecipeError
from registry.files import read_bytes

MAX_BYTES = 1_000_000
MAX_NODES = 20_000  # counted after aliases are followed, so that nested aliases cannot explode
MAX_DEPTH = 100
MAX_KEY = 200  # characters
MAX_INTEGER = 2**63 - 1
MAX_FLOAT = 3.4028234663852886e38  # of a float32
_TOO_LARGE = "is too large or too deeply nested (aliases counted where they are used)"


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


class _RefusedError(yaml.MarkedYAMLError):
    """The document is YAML, but not of a kind that recipes may be."""


class _Composer(Composer, Resolver):
    """YAML 1.2 core schema without tags: `1e-3` is a number, `no` and `12:30` are strings."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (the base class's table, replaced)
    nodes = depth = 0

    def __init__(self) -> None:
        Composer.__init__(self)
        Resolver.__init__(self)

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Read a node, unless it has a tag or the document becomes too large."""
        event = cast("Any", self).peek_event()
        self.nodes += 1
        if self.nodes > MAX_NODES or self.depth > MAX_DEPTH:
            raise _RefusedError(problem=_TOO_LARGE, problem_mark=event.start_mark)
        if getattr(event, "tag", None) is not None:
            message = f"tag {event.tag!r} is not allowed: a recipe is plain data; remove it"
            raise _RefusedError(problem=message, problem_mark=event.start_mark)
        self.depth += 1
        node = cast("Any", super()).compose_node(parent, index)
        self.depth -= 1
        return node


class _Loader(_Composer, yaml.SafeLoader):
    """Reads with PyYAML's own parser, whose errors say most."""

    def __init__(self, text: str) -> None:
        yaml.SafeLoader.__init__(self, text)
        _Composer.__init__(self)


def _quick_loader() -> type[_Composer]:
    """The same with libyaml's parser, several times as fast, if PyYAML was built with it."""
    if not yaml.__with_libyaml__:
        return _Loader
    from yaml.cyaml import CSafeLoader

    class QuickLoader(_Composer, CSafeLoader):
        def __init__(self, text: str) -> None:
            CSafeLoader.__init__(self, text)
            _Composer.__init__(self)

    return QuickLoader


_QuickLoader = _quick_loader()


_READ_DIFFERENTLY = re.compile(r"[?\t\ufeff]|[|>][-+0-9]*#")
"""libyaml accepts more of these than PyYAML\'s own parser."""


def _compose(text: str) -> yaml.Node | None:
    """The same document or error with and without libyaml."""
    if _READ_DIFFERENTLY.search(text) is None:
        with suppress(yaml.YAMLError, UnicodeError):  # read again for the sake of its message
            return cast("Any", yaml).compose(text, Loader=_QuickLoader)
    return cast("Any", yaml).compose(text, Loader=_Loader)


def _resolve(tag: str, pattern: str, first: str) -> None:
    resolver = re.compile(f"^(?:{pattern})$")
    cast("Any", _Composer).add_implicit_resolver(f"tag:yaml.org,2002:{tag}", resolver, list(first))


_resolve("null", r"~|null|Null|NULL|", "~nN")
_resolve("bool", r"true|True|TRUE|false|False|FALSE", "tTfF")
_resolve("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789")
_resolve(
    "float",
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "-+0123456789.",
)
cast("Any", _Composer).yaml_implicit_resolvers.setdefault("", []).append(("tag:yaml.org,2002:null", re.compile("^$")))


def read_yaml(path: Path) -> Map:
    """Read a recipe file.

    Raises:
        RecipeError: it cannot be read, is not YAML, or is not one mapping.
    """
    try:
        text = read_bytes(path, MAX_BYTES).decode("utf-8")
    except OSError as error:
        raise _failure(Mark(str(path)), f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise _failure(Mark(str(path)), "is not UTF-8 text") from error
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
        node = _compose(text)
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        remedy = "; indent with spaces, not tabs" if error.problem and "'\\t'" in error.problem else ""
        mark = Mark(source, at.line + 1 if at and lines else None)
        refused = isinstance(error, _RefusedError)
        raise _failure(mark, f"{'' if refused else 'is not YAML: '}{error.problem}{remedy}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if lines else None
        code = error.character if isinstance(error.character, int) else ord(error.character)
        raise _failure(Mark(source, line), f"contains the control character U+{code:04X}; remove it") from error
    except yaml.YAMLError as error:
        raise _failure(Mark(source), f"is not YAML: {str(error).splitlines()[0]}") from error
    return None if node is None else _Builder(source, lines).value(node)


class _Builder:
    def __init__(self, source: str, lines: bool) -> None:
        self.source, self.lines = source, lines
        self.nodes = 0

    def value(self, node: yaml.Node, depth: int = 0) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            raise _failure(self.mark(node), _TOO_LARGE)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, depth)
        if isinstance(node, yaml.SequenceNode):
            return Seq([self.value(item, depth + 1) for item in node.value], [self.mark(item) for item in node.value])
        return self.scalar(node)

    def scalar(self, node: yaml.Node) -> Any:
        kind, text = node.tag.rpartition(":")[2], str(node.value)
        if kind == "int":
            digits = text.lstrip("+-0xo") or "0"
            value = MAX_INTEGER + 1 if len(digits) > 21 else int(text, 0 if text.startswith(("0o", "0x")) else 10)
            return _checked(value, self.mark(node), len(digits))
        if kind == "float":
            return _checked(float(re.sub(r"\.(inf|nan)$", r"\1", text.lower())), self.mark(node))
        if kind == "bool":
            return text.lower() == "true"
        return None if kind == "null" else _checked(text, self.mark(node))

    def mapping(self, node: yaml.MappingNode, depth: int) -> Map:
        result = Map(mark=self.mark(node))
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str) or key_node.tag == "tag:yaml.org,2002:merge" or key == "<<":
                raise _failure(
                    self.mark(key_node), "keys must be plain names; to start from another layer write 'like: name'"
                )
            check_key(key, self.mark(key_node))
            if key in result:
                raise _failure(
                    self.mark(key_node), f"key {key!r} is given twice; first at line {result.marks[key].line}"
                )
            result[key], result.marks[key] = self.value(value_node, depth + 1), self.mark(key_node)
        return result

    def mark(self, node: yaml.Node) -> Mark:
        return Mark(self.source, node.start_mark.line + 1 if self.lines else None)


def _failure(mark: Mark, message: str) -> RecipeError:
    return RecipeError([Problem(mark, "", message)])


def _checked(value: Any, mark: Mark, digits: int | None = None) -> Any:
    """A scalar that a recipe may contain: text without control characters, and whole numbers of 64 bits.

    Raises:
        RecipeError: it is another one.
    """
    if isinstance(value, str) and not value.isprintable():
        code = next(ord(one) for one in value if not one.isprintable())
        raise _failure(mark, f"text with the control character U+{code:04X}: {value[:80]!r}; remove it")
    if type(value) is int and abs(value) > MAX_INTEGER:
        size = f"a whole number of {digits} digits" if digits else "a whole number"
        raise _failure(mark, f"{size} is above {MAX_INTEGER}, the largest that a recipe can contain")
    if isinstance(value, float) and MAX_FLOAT < abs(value) < math.inf:
        raise _failure(mark, f"{value:g} is above {MAX_FLOAT:.2g}, the largest number of a float32")
    return value


def check_key(key: str, mark: Mark) -> None:
    """Check that a recipe can contain this key.

    Raises:
        RecipeError: it is too long or contains a control character.
    """
    if len(key) > MAX_KEY:
        raise _failure(mark, f"a key of {len(key):,} characters; a key has at most {MAX_KEY}")
    _checked(key, mark)


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


def as_plain(value: Any) -> Any:
    """Map and Seq as plain mappings and tuples, which is what pydantic's strict mode expects of Python data."""
    if isinstance(value, Mapping):
        return {key: as_plain(item) for key, item in cast("Mapping[str, Any]", value).items()}
    return tuple(as_plain(item) for item in cast("list[Any]", value)) if isinstance(value, list | tuple) else value


def with_mark(value: Any, mark: Mark) -> Any:
    """Plain data as Map and Seq, everything written at ``mark``.

    Raises:
        RecipeError: it contains what no recipe file can contain, or is too large or too deeply nested.
    """
    return _Marked(mark).value(value)


class _Marked:
    def __init__(self, mark: Mark) -> None:
        self.mark = mark
        self.nodes = 0

    def value(self, value: Any, depth: int = 0) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            raise _failure(self.mark, _TOO_LARGE)
        if isinstance(value, Mapping):
            return self.mapping(cast("Mapping[Any, Any]", value), depth)
        if isinstance(value, list | tuple):
            items = [self.value(item, depth + 1) for item in cast("list[Any]", value)]
            return Seq(items, [self.mark] * len(items))
        return _checked(value, self.mark)

    def mapping(self, value: Mapping[Any, Any], depth: int) -> Map:
        for key in value:
            if not isinstance(key, str):
                raise _failure(self.mark, f"keys must be plain names, not {str(key)[:80]!r}")
            check_key(key, self.mark)
        items = {key: self.value(item, depth + 1) for key, item in value.items()}
        return Map(items, dict.fromkeys(items, self.mark), self.mark)
