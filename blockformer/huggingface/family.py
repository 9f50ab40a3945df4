"""Family files: each maps the config and the tensors of one published architecture to a recipe and its parameters."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, cast

from blockformer.huggingface.errors import HuggingFaceError
from blockformer.huggingface.expression import FUNCTIONS, ExpressionError, calls, is_expression, names, parse
from registry import Mark, Problem
from registry.errors import nearest, quoted
from registry.strict_yaml import Map, Seq, read_yaml

_FOLDER = Path(__file__).parent / "families"
_MAPPINGS = ("match", "defaults", "fixed", "require", "let", "recipe", "tensors", "tied", "leaves", "export")
_LISTS = ("ignore", "unused")
_TEXTS = ("extends", "about", "source")
_PREDEFINED = frozenset({"layer", "depth", "tensors", "recipe", "layers"})  # names that are not config keys
_SIGNATURE = re.compile(r"(\w+)(?:\(([\w, ]*)\))?")


@dataclass(frozen=True)
class Template:
    """An entry of ``let``: a named value, or a function if it has parameters."""

    parameters: tuple[str, ...]
    body: Any
    mark: Mark


class Family:
    """A family file, merged with the files that it extends, and checked.

    Args:
        name: for messages.
        path: the file.
        tree: its content, merged with that of the files that it extends.
        bases: names of the families that it extends, the nearest first.

    Raises:
        HuggingFaceError: sections or expressions are wrong; the error lists all of them.
    """

    def __init__(self, name: str, path: Path, tree: Map, bases: tuple[str, ...] = ()) -> None:
        self.name, self.path, self.tree, self.bases = name, path, tree, bases
        _check_sections(tree)
        self.templates = dict(_templates(self.section("let")))
        self._expressions = list(_expressions(tree))
        _check_expressions(self._expressions, self.templates)

    def section(self, name: str) -> Map:
        """A section that is a mapping; empty if the file does not have it."""
        return cast("Map", self.tree.get(name) or Map(mark=Mark(str(self.path))))

    def list_section(self, name: str) -> list[str]:
        """A section that is a list; empty if the file does not have it."""
        return list(cast("Sequence[str]", self.tree.get(name) or ()))

    @property
    def about(self) -> str:
        """Name of the architecture, in one line."""
        return str(self.tree.get("about", ""))

    @property
    def model_types(self) -> list[str]:
        """The values of ``model_type`` that the family supports; empty if it exists only to be extended."""
        return as_list(self.section("match").get("model_type"))

    @property
    def architectures(self) -> list[str]:
        """The transformers classes that the family supports."""
        return as_list(self.section("match").get("architectures"))

    def ignores(self, key: str) -> bool:
        """Whether ``ignore`` lists a config key, which then does not affect the logits."""
        return any(fnmatchcase(key, pattern) for pattern in self.list_section("ignore"))

    @property
    def keys(self) -> set[str]:
        """Every config key that the file mentions."""
        mentioned = {name for _, _, text in self._expressions for name in names(parse(text))}
        parameters = {parameter for template in self.templates.values() for parameter in template.parameters}
        return (mentioned - parameters - _PREDEFINED) | set(self.section("defaults")) | set(self.section("fixed"))


def as_list(value: Any) -> list[Any]:
    """A list unchanged, None as an empty list, any other value as a list of one."""
    if value is None:
        return []
    return list(cast("Sequence[Any]", value)) if isinstance(value, list) else [value]


def builtin_families() -> dict[str, Path]:
    """The family files of this package, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def families() -> list[Family]:
    """The built-in families that support at least one ``model_type``."""
    return [family for name in builtin_families() if (family := load_family(name)).model_types]


def load_family(source: str | Path) -> Family:
    """Load a family by its file or, if it is built in, by its name.

    Raises:
        HuggingFaceError: there is no such family, or its file is wrong; the error lists all problems.
    """
    known = builtin_families()
    if str(source) in known:
        return _load_builtin(str(source))
    path = Path(source)
    if not path.is_file():
        hint = nearest(str(source), known) or f"known: {', '.join(known)}"
        raise HuggingFaceError.at(str(source), f"neither a file nor the name of a built-in family; {hint}")
    return Family(path.stem, path, *_read_merged(path, ()))


@cache
def _load_builtin(name: str) -> Family:
    path = builtin_families()[name]
    return Family(name, path, *_read_merged(path, ()))


def family_of(config: Mapping[str, Any], file: Path, candidates: list[Family] | None = None) -> Family:
    """The family that supports the ``model_type`` and the ``architectures`` of a config.

    Args:
        config: the content of config.json.
        file: its path, for messages.
        candidates: families to choose from; None: the built-in ones.

    Raises:
        HuggingFaceError: no family supports them; the message names the nearest.
    """
    known = families() if candidates is None else candidates
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise HuggingFaceError.at(file, f"must be the name of an architecture, not {quoted(model_type)}", "model_type")
    matching = [family for family in known if model_type in family.model_types]
    if not matching:
        model_types = sorted({model_type for family in known for model_type in family.model_types})
        close = get_close_matches(model_type[:100], model_types, n=3, cutoff=0.4)
        hint = f"nearest: {', '.join(close)}; " if close else ""
        message = f"no family supports model_type {model_type!r}; {hint}to add one, see docs/add-a-family.md"
        raise HuggingFaceError.at(file, message)
    classes = as_list(config.get("architectures"))
    if not all(isinstance(name, str) for name in classes):
        raise HuggingFaceError.at(file, f"must be a list of names, not {quoted(classes)}", "architectures")
    for family in matching:
        if not classes or set(classes) & set(family.architectures):
            return family
    supported = ", ".join(name for family in matching for name in family.architectures)
    message = f"architecture {', '.join(classes)} is not supported; model_type {model_type!r} supports {supported}"
    raise HuggingFaceError.at(file, message)


def _read_merged(path: Path, seen: tuple[Path, ...]) -> tuple[Map, tuple[str, ...]]:
    """The content of a family file, merged over that of the families that it extends, and the names of those."""
    tree = read_yaml(path)
    if "extends" not in tree:
        return tree, ()
    name, mark = str(tree["extends"]), tree.marks["extends"]
    base_path = _base_path(path, name, mark)
    if base_path.resolve() in (*seen, path.resolve()):
        raise HuggingFaceError.at(mark, f"circular reference: {path.name} -> {base_path.name}", "extends")
    base, bases = _read_merged(base_path, (*seen, path.resolve()))
    own = Map({key: value for key, value in tree.items() if key != "extends"}, tree.marks, tree.mark)
    for key in ("match", "about", "source"):  # they belong to one architecture and are not inherited
        base.pop(key, None)
    both = merge(base, own)
    for key in _LISTS:
        if isinstance(first := base.get(key), Seq) and isinstance(second := own.get(key), Seq):
            both[key] = Seq([*first, *second], [*first.marks, *second.marks])
    if isinstance(rules := both.get("tensors"), Map) and "tensors" in own:  # the export prefers a family's own rules
        both["tensors"] = Map({**own["tensors"], **rules}, rules.marks, rules.mark)
    return both, (base_path.stem, *bases)


def _base_path(path: Path, name: str, mark: Mark) -> Path:
    """The file that ``extends`` names: one in the same folder, or a built-in family."""
    beside = path.parent / (name if name.endswith(".yaml") else f"{name}.yaml")
    known = builtin_families()
    if beside.is_file():
        return beside
    if name in known:
        return known[name]
    hint = nearest(name, known) or f"known: {', '.join(known)}"
    raise HuggingFaceError.at(mark, f"unknown family {name!r}; {hint}", "extends")


def merge(base: Any, change: Any) -> Any:
    """``change`` over ``base``, key by key; a block of another type and a condition replace the base as a whole."""
    if not isinstance(base, Map) or not isinstance(change, Map):
        return change
    conditional = any(key in tree for key in ("if", "switch") for tree in (base, change))
    another_type = base.get("type") != change.get("type", base.get("type"))
    if another_type or (conditional and "switch" not in {*base} & {*change}):
        return change
    both = Map(base, base.marks | change.marks, base.mark)
    for key, value in change.items():
        both[key] = merge(base[key], value) if key in base else value
    return both


def _check_sections(tree: Map) -> None:
    kinds = {**dict.fromkeys(_MAPPINGS, Map), **dict.fromkeys(_LISTS, Seq), **dict.fromkeys(_TEXTS, str)}
    problems: list[Problem] = []
    for key, value in tree.items():
        if key not in kinds:
            hint = nearest(key, kinds) or f"known: {', '.join(kinds)}"
            problems.append(Problem(tree.marks[key], key, f"unknown section; {hint}"))
        elif value is not None and not isinstance(value, kinds[key]):
            wanted = {Map: "a mapping", Seq: "a list", str: "text"}[kinds[key]]
            problems.append(Problem(tree.marks[key], key, f"must be {wanted}"))
    if problems:
        raise HuggingFaceError(problems)


def _templates(section: Map) -> Iterator[tuple[str, Template]]:
    for key, body in section.items():
        found = _SIGNATURE.fullmatch(key)
        if not found:
            raise HuggingFaceError.at(section.marks[key], f"{key!r} is neither a name nor name(parameter, ...)", "let")
        parameters = tuple(name.strip() for name in (found[2] or "").split(",") if name.strip())
        yield found[1], Template(parameters, body, section.marks[key])


def _expressions(tree: Map) -> Iterator[tuple[Mark, str, str]]:
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
            problems.append(Problem(mark, path, f"unknown function {name!r}; {hint}"))
    if problems:
        raise HuggingFaceError(problems)
