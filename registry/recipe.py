"""Recipe files: find one, resolve `extends`, `like` and overrides, and validate it against the registry."""

import heapq
import math
import os.path
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from registry.capabilities import UnfitError
from registry.diagnosis import capability_error, error_in, unsupported_positions
from registry.errors import Mark, ParameterError, Problem, RecipeError, nearest
from registry.merge import dotted, merge, resolve_like, split_override, with_override, with_types
from registry.registration import slots
from registry.spec import Record, Spec, build_hook, parse
from registry.strict_yaml import Map, as_plain, mark_of, parse_text, read_yaml, with_mark
from registry.text import shortened

ROOT = "model"
TENSOR_AXES = 3  # axes of the largest parameters: experts, rows, columns
MOST_ELEMENTS = (2**63 - 1) // 4  # of a float32 tensor, whose bytes are counted in 64 bits
Overrides = Mapping[str, Any] | Iterable[str]


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    Attributes:
        name: its file's stem, or its model's type.
        spec: builds the model.
        tree: its keys with the file and line of each.
        source: the file, as in the marks of ``tree``; ``recipe`` if there was none.
        before: gives the recipe without its overrides; None: there are none.
    """

    name: str
    spec: Spec[Any]
    tree: Map
    source: str = "recipe"
    before: Callable[[], "Recipe"] | None = None

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical form, without what does not change the model."""
        return self.spec.hash

    def dump(self) -> dict[str, Any]:
        """The canonical form as plain data: every default filled in, the order fixed."""
        return self.spec.dump()

    def to_yaml(self) -> str:
        """The canonical form as YAML that :func:`load_recipe` reads back to the same hash."""
        return yaml.safe_dump(self.dump(), sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)

    def build(self, *given: Any, record: Record | None = None) -> Any:
        """Build the model.

        Args:
            given: what a parent passes to a model: nothing.
            record: records what is built.

        Raises:
            RecipeError: sizes do not fit each other; every such place is named at once.
        """
        record = record or Record()
        wrong, failures = list(unsupported_positions(self.spec)), record.failures
        with build_hook(record.build):
            built = self.spec(*given)
        if not failures and not wrong:
            return built
        paths = {id(spec): path for path, spec in self.spec.walk()}
        wrong += [
            (paths.get(id(spec), ()) + (error.path if isinstance(error, ParameterError) else ()), reason)
            for spec, error in failures
            if (reason := self._reason(spec, error))
        ]
        if not wrong:
            spec, error = failures[0]
            error.add_note(f"  at {dotted(paths.get(id(spec), ()))}")
            raise error
        raise RecipeError(self.problem(path, reason) for path, reason in wrong)

    def _reason(self, spec: Spec[Any], error: Exception) -> str:
        """What the recipe's author can correct; empty if the block itself is at fault."""
        if isinstance(error, UnfitError):
            return capability_error(self.spec, spec, error)
        if isinstance(error, ValueError):
            return str(error)
        largest = heapq.nlargest(TENSOR_AXES, _integers(self.spec.dump()))
        elements = math.prod(largest) * max(largest, default=0)  # the width may be that of rows and columns
        if isinstance(error, RuntimeError | TypeError | OverflowError) and elements > MOST_ELEMENTS:
            return f"a size is too large for a tensor; the largest in this recipe is {largest[0]}; reduce it"
        return ""

    def problem(self, path: tuple[str | int, ...], message: str) -> Problem:
        """A problem at the file and line where a key path was written."""
        return Problem(mark_of(self.tree, path), dotted(path), message)


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Overrides = ()) -> Recipe:
    """Read a recipe and check it against the registry.

    Args:
        source: a path, the bare name of a built-in recipe, or a mapping with the content of a file.
        overrides: ``{"decoder.depth": 2}`` or ``["decoder.depth=2"]``, laid over in order.

    Raises:
        RecipeError: all problems at once, each with file, line, key and remedy.
    """
    if ROOT not in slots():
        message = "no blocks are registered; import blocks or blockformer.assembly first"
        raise RecipeError([Problem(Mark(str(source)), "", message)])
    name, tree, origin = _source(source)
    tree = _as_model(tree)
    before = partial(load_recipe, source) if overrides else None
    for key, value, mark in assignments(overrides):
        tree = _as_model(with_override(tree, key, value, mark))
    tree = _as_model(resolve_like(tree))
    try:
        return Recipe(name, parse(ROOT, as_plain(tree)), tree, origin, before)
    except ValidationError as error:
        raise error_in(ROOT, tree, error) from None
    except PydanticCustomError as error:
        raise RecipeError([Problem(mark_of(tree, ("type",)), "", error.message())]) from None


def assignments(overrides: Overrides) -> Iterator[tuple[str, Any, Mark]]:
    """Each override as key, value and mark; the value in a text ``key=value`` is YAML."""
    if isinstance(overrides, Mapping):
        pairs = cast("Mapping[str, Any]", overrides).items()
        yield from ((key, value, Mark(f"override {key}={value}")) for key, value in pairs)
        return
    for text in overrides:
        mark = Mark(f"override {text}")
        parts = split_override(text)
        if parts is None:
            raise RecipeError([Problem(mark, "", "must have the form key.key=value")])
        yield parts[0], parse_text(parts[1], mark.source, lines=False), mark


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe given by path or by the bare name of a built-in one.

    Raises:
        RecipeError: there is none.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if os.path.exists(path):  # noqa: PTH110  (a text that is too long for a path: no error)
            return path
        raise RecipeError([Problem(Mark(str(name)), "", "there is no such file")])
    known = builtin_recipes()
    if str(name) in known:
        return known[str(name)]
    raise RecipeError([Problem(Mark(str(name)), "", unknown_recipe(str(name)))])


def _integers(tree: Any) -> Iterator[int]:
    """All whole numbers in nested plain data."""
    if isinstance(tree, Mapping | list):
        values = cast("Iterable[Any]", tree.values() if isinstance(tree, Mapping) else tree)
        for value in values:
            yield from _integers(value)
    elif isinstance(tree, int) and not isinstance(tree, bool):
        yield tree


def _source(source: str | Path | Mapping[str, Any]) -> tuple[str, Map, str]:
    """The name of a recipe, its tree, and the source that its marks name."""
    if isinstance(source, Map) and source.mark is not None:  # part of a file that was read, which keeps its lines
        return str(source.get("type", "recipe")), source, source.mark.source
    if isinstance(source, Mapping):
        tree = with_mark(source, Mark("recipe"))
        return str(tree.get("type", "recipe")), tree, "recipe"
    path = find_recipe(source)
    return shortened(path.stem), _with_base(path, ()), str(path)


def _with_base(path: Path, seen: tuple[Path, ...]) -> Map:
    if path.resolve() in seen:
        raise RecipeError(
            [
                Problem(
                    Mark(str(path)), "extends", f"is a circular reference: {' -> '.join(p.name for p in (*seen, path))}"
                )
            ]
        )
    tree = read_yaml(path)
    if "extends" not in tree:
        return tree
    base, mark = tree["extends"], tree.marks["extends"]
    change = Map({key: value for key, value in tree.items() if key != "extends"}, tree.marks, tree.mark)
    if not isinstance(base, str):
        raise RecipeError([Problem(mark, "extends", "must be a path or the name of a built-in recipe")])
    try:
        beside = path.parent / base
        known = Path(base).suffix and os.path.exists(beside)  # noqa: PTH110
        found = beside if known else find_recipe(base)
    except RecipeError as error:
        raise RecipeError([Problem(mark, "extends", f"{base!r}: {error.problems[0].message}")]) from None
    return merge(_as_model(_with_base(found, (*seen, path.resolve()))), change)


def _as_model(tree: Map) -> Map:
    """Types written out, except that a model whose own type is missing or unknown stays as it is."""
    result = with_types(ROOT, tree)
    return result if isinstance(result, Map) else tree


def builtin_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by bare name; one may lie in a folder of its family."""
    return {path.stem: path for path in sorted(recipes_folder().rglob("*.yaml"), key=lambda path: path.stem)}


def recipes_folder() -> Path:
    """The folder of the built-in recipes."""
    here = Path(__file__).parent
    return here / "recipes" if (here / "recipes").is_dir() else here.parent / "recipes"


def description_of(path: Path) -> str:
    """The comment that a recipe file begins with, without the line for editors."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = [line for line in lines[: _length(lines)] if not line.startswith("# yaml-language-server:")]
    return " ".join(line.lstrip("# ") for line in comment)


def unknown_recipe(name: str) -> str:
    """The error message for a name that no recipe has."""
    known = builtin_recipes()
    hint = nearest(name, known) or f"`blockformer recipes` lists all {len(known)}"
    return f"there is no built-in recipe of this name; {hint} (the name of a file ends in .yaml)"


def _length(lines: list[str]) -> int:
    """How many lines the first comment has."""
    return next((index for index, line in enumerate(lines) if not line.startswith("#")), len(lines))
