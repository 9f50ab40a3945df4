"""Read and check a family file, merged with the files that it extends."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from blockformer.huggingface.errors import HuggingFaceError
from blockformer.huggingface.expression import FUNCTIONS, ExpressionError, calls, is_expression, parse
from registry import Mark, Problem, RecipeError
from registry.errors import nearest
from registry.strict_yaml import Map, Seq, read_yaml

_FOLDER = Path(__file__).parent / "families"
MAPPINGS = ("match", "defaults", "fixed", "require", "let", "recipe", "tensors", "tied", "leaves", "export")
LISTS = ("ignore", "unused", "computed")
TEXTS = ("extends", "about", "source", "reference")
ANY = "*"  # in the section `fixed`: any value is supported
INHERIT = "inherit"  # in a block of another type: `inherit: true` keeps the inherited keys
_NAME = re.compile(r"\{(\w+)\}")
_QUOTES = (
    "; in a family file, quote text that contains [ ] { } , : or #, such as '=layer_types[layer]' or "
    '"decoder.layers.{layer}.norm" inside { } or [ ]'
)


@cache
def builtin_families() -> Mapping[str, Path]:
    """The family files of this package, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def read_family(path: Path) -> tuple[Map, tuple[Path, ...]]:
    """The content of a family file, merged over that of the families that it extends.

    Args:
        path: the file.

    Returns:
        The content, and the files: the family's own, the one that it extends, and so on.

    Raises:
        RecipeError: a file cannot be read, is not YAML, or extends what does not exist.
    """
    files, trees = (path,), [_read(path)]
    while "extends" in trees[-1]:
        name, mark = str(trees[-1]["extends"]), trees[-1].marks["extends"]
        base = _base_path(files[-1], name, mark)
        if base.resolve() in [file.resolve() for file in files]:
            raise HuggingFaceError.at(mark, f"circular reference: {files[-1].name} -> {base.name}", "extends")
        files, trees = (*files, base), [*trees, _read(base)]
    names = _plain_names(trees)
    own, *bases = (_renamed(tree, names) for tree in trees)
    merged = Map(mark=Mark(str(path)))
    for tree in reversed(bases):
        merged = _over(merged, tree)
    for key in ("match", "about", "source"):  # they belong to one architecture and are not inherited
        merged.pop(key, None)
    return _over(merged, own), files


def merge(base: Any, change: Any) -> Any:
    """``change`` over ``base``, key by key; a block of another type and a condition replace the base as a whole."""
    if not isinstance(base, Map) or not isinstance(change, Map):
        return change
    kept = change.get(INHERIT) is True
    change = Map({key: value for key, value in change.items() if key != INHERIT}, change.marks, change.mark)
    conditional = any(key in tree for key in ("if", "switch") for tree in (base, change))
    another_type = base.get("type") != change.get("type", base.get("type")) and not kept
    if another_type or (conditional and "switch" not in {*base} & {*change}):
        return change
    both = Map(base, base.marks | change.marks, base.mark)
    for key, value in change.items():
        both[key] = merge(base[key], value) if key in base else value
    return both


def _read(path: Path) -> Map:
    """The content of one file; its sections have the right types."""
    try:
        tree = read_yaml(path)
    except RecipeError as error:
        unquoted = ("is not YAML", "keys must be plain names")
        hints = [_QUOTES if one.message.startswith(unquoted) else "" for one in error.problems]
        problems = [
            Problem(one.mark, one.path, one.message + hint) for one, hint in zip(error.problems, hints, strict=True)
        ]
        raise HuggingFaceError(problems) from None
    kinds = {**dict.fromkeys(MAPPINGS, Map), **dict.fromkeys(LISTS, Seq), **dict.fromkeys(TEXTS, str)}
    problems = list[Problem]()
    for key, value in tree.items():
        if key not in kinds:
            hint = nearest(key, kinds) or f"known: {', '.join(kinds)}"
            problems.append(Problem(tree.marks[key], key, f"unknown section; {hint}"))
        elif value is not None and not isinstance(value, kinds[key]):
            wanted = {Map: "a mapping", Seq: "a list", str: "text"}[kinds[key]]
            problems.append(Problem(tree.marks[key], key, f"must be {wanted}"))
    if problems:
        raise HuggingFaceError(problems)
    return tree


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


def _over(base: Map, own: Map) -> Map:
    """The sections of a family over those of the family that it extends."""
    inherited = Map(base, base.marks, base.mark)
    for section, other in (("defaults", "fixed"), ("fixed", "defaults")):
        # A key has its default or is fixed: what a family says of it replaces what it inherits in the other section.
        declared = {key for key, value in _section(own, section).items() if value != ANY} - {*_section(own, other)}
        kept = {key: value for key, value in _section(base, other).items() if key not in declared}
        if other in base:
            inherited[other] = Map(kept, _section(base, other).marks, _section(base, other).mark)
    both = cast("Map", merge(inherited, Map({k: v for k, v in own.items() if k != "extends"}, own.marks, own.mark)))
    for key in LISTS:
        if isinstance(first := base.get(key), Seq) and isinstance(second := own.get(key), Seq):
            both[key] = Seq([*first, *second], [*first.marks, *second.marks])
    return both


def _section(tree: Map, name: str) -> Map:
    return cast("Map", tree.get(name) or Map())


def _plain_names(trees: list[Map]) -> dict[str, str]:
    """The names in ``let`` whose value is plain text, as the last family in the chain that has them says."""
    names: dict[str, Any] = {}
    for tree in reversed(trees):
        names |= _section(tree, "let")
    return {key: value for key, value in names.items() if isinstance(value, str) and not value.startswith("=")}


def _renamed(tree: Map, names: Mapping[str, str]) -> Map:
    """A file with ``{name}`` in the keys of its recipe replaced by the value of that name."""
    return Map({k: _keys(v, names) if k in ("recipe", "let") else v for k, v in tree.items()}, tree.marks, tree.mark)


def _keys(node: Any, names: Mapping[str, str]) -> Any:
    if not isinstance(node, Map):
        return node
    result = Map(mark=node.mark)
    for key, value in node.items():
        name = _NAME.sub(lambda found: names.get(found[1], found[0]), key)
        inner = _keys(value, names)
        result[name] = merge(result[name], inner) if name in result else inner
        result.marks[name] = node.marks[key]
    return result


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
