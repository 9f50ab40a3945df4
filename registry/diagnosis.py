"""Error messages for recipes: wrong keys and values, and blocks that do not fit their place."""

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from registry.capabilities import UnfitError
from registry.errors import MOST_PROBLEMS, Problem, RecipeError, nearest, quoted
from registry.merge import Path, blocks_in, dotted, with_types
from registry.registration import Block, Entry, entries
from registry.spec import Spec
from registry.strict_yaml import Map, Seq, mark_of

Fits = Callable[[type[Block]], bool]


def error_in(slot: str, tree: Map, error: ValidationError) -> RecipeError:
    """An error with one problem for each wrong key, in the order in which they were written."""
    known = _read_blocks(slot, tree)
    found: dict[Path, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        found.setdefault(_written(tree, details["loc"]), []).append(details)
    marks = {path: mark_of(tree, path) for path in found}
    first = sorted(found, key=lambda path: (marks[path].source, marks[path].line or 0))[:MOST_PROBLEMS]
    problems = [Problem(marks[path], dotted(path), _message(known, path, found[path])) for path in first]
    return RecipeError(problems, more=len(found) - len(first))


def _read_blocks(slot: str, tree: Map) -> dict[Path, Entry]:
    """The blocks of a recipe by key path, with those of defaults that it reads.

    A default for cross-attention alone is left out: only the decoder of an encoder-decoder reads it.
    """
    written = {path for path, _ in blocks_in(slot, with_types(slot, tree))}
    filled = blocks_in(slot, with_types(slot, tree, filled=True))
    cross = frozenset(("cross",))
    return {path: entry for path, entry in filled if path in written or entry.block.capabilities.places != cross}


def _written(tree: Map, location: Path) -> Path:
    """The part of pydantic's location that is a path in the recipe; the rest names members of a union."""
    node: Any = tree
    for index, key in enumerate(location):
        keys = node if isinstance(node, Map) else range(len(node)) if isinstance(node, Seq) else ()
        if key not in keys:
            return location[:index]
        node = cast("Any", node)[key]
    return location


def _message(known: dict[Path, Entry], path: Path, group: list[ErrorDetails]) -> str:
    first = group[0]
    if first["type"] == "extra_forbidden":
        return _unknown_key(known, path)
    if first["type"] == "unknown_block":
        return first["msg"] + _home(known, first.get("ctx", {}).get("home", ""))
    if first["type"] in ("no_type", "block"):
        return first["msg"]
    # of a union, take the member that validation got furthest in
    deepest = max(len(details["loc"]) for details in group)
    likely = [details for details in group if len(details["loc"]) == deepest]
    expected = dict.fromkeys(_expected(details) for details in likely)
    return f"must be {' or '.join(expected)}, not {quoted(likely[0]['input'])}"


def _expected(details: ErrorDetails) -> str:
    known = {"int_type": "an integer", "float_type": "a number", "bool_type": "true or false", "string_type": "text"}
    known |= {"tuple_type": "a list", "mapping_type": "a mapping"}
    message = details["msg"].removeprefix("Input should be ").removeprefix("Input should ")
    return known.get(details["type"], message)


def _home(known: dict[Path, Entry], home: str) -> str:
    """The keys of this recipe that take a block of the slot ``home``, as advice."""
    places = [
        (*at, name) for at, entry in known.items() for name, p in entry.parameters.items() if home and p.slot == home
    ]
    named = sorted({dotted(place) for place in places}, key=lambda place: (-place.count("."), place))
    return f"; it can be used at {' or '.join(map(repr, named[:3]))}" if places else ""


def _unknown_key(known: dict[Path, Entry], path: Path) -> str:
    *parents, key = path
    here = known[tuple(parents)]
    return f"{here.slot} {here.name!r} has no parameter {key!r}; {_advice(known, tuple(parents), here, str(key))}"


def _advice(known: dict[Path, Entry], parent: Path, here: Entry, key: str) -> str:
    close = nearest(key, here.parameters)
    if homes := [(*path, key) for path, entry in known.items() if key in entry.parameters]:
        home = _nearest(homes, parent)
        place = f"in {dotted(home)!r}" if len(home) > 1 else "at the top level"
        return f"it belongs {place}{f' (or {close})' if close else ''}"
    if close:
        return close
    if siblings := [entry.name for entry in entries(here.slot).values() if key in entry.parameters]:
        return f"{here.slot} {siblings[0]!r} has it"
    elsewhere = [(*path, name) for path, entry in known.items() for name in entry.parameters]
    if alike := get_close_matches(key, {str(path[-1]) for path in elsewhere}, n=1):
        return f"did you mean {dotted(_nearest([path for path in elsewhere if path[-1] == alike[0]], parent))!r}?"
    return f"known: {', '.join(here.parameters) or 'none'}"


def _nearest(places: list[Path], path: Path) -> Path:
    return min(places, key=lambda place: _distance(place, path))


def _distance(path: Path, other: Path) -> tuple[int, int]:
    shared = next((i for i, (a, b) in enumerate(zip(path, other, strict=False)) if a != b), min(len(path), len(other)))
    return len(path) + len(other) - 2 * shared, len(path)


def unsupported_positions(root: Spec[Any]) -> Iterator[tuple[Path, str]]:
    """Every block whose parent does not apply its kind of positions: its key path and the error message."""
    for path, spec in root.walk():
        offers = spec.entry.block.capabilities.positions
        for key, child in spec.children():
            needs = child.entry.block.capabilities.needs
            if needs <= offers:
                continue
            what = f"needs {' and '.join(sorted(needs))} applied, which {_label(spec, path)} does not do"
            elsewhere = _other_keys(root, child)
            instead = alternatives(child.entry.slot, lambda block, offers=offers: block.capabilities.needs <= offers)
            yield path + key, f"{child.entry.slot} {child.entry.name!r} {what}; {instead}{elsewhere}"


def capability_error(root: Spec[Any], spec: Spec[Any], error: UnfitError) -> str:
    """The error message for a block that lacks what its place requires."""
    requiring = (_label(parent, at) for at, parent in root.walk() for _, child in parent.children() if child is spec)
    problem = ", ".join([str(error), *(f"which {parent} requires" for parent in requiring)])
    return f"{spec.entry.slot} {spec.entry.name!r} {problem}; {alternatives(spec.entry.slot, error.fits)}"


def _label(spec: Spec[Any], path: Path) -> str:
    return f"{spec.entry.slot} {spec.entry.name!r}" + (f" ({dotted(path)})" if path else "")


def alternatives(slot: str, fits: Fits) -> str:
    """Advice: the blocks of a slot that fit."""
    names = sorted(name for name, entry in entries(slot).items() if fits(entry.block))
    return f"choose {' or '.join(names)}" if names else f"no registered {slot} fits there"


def _other_keys(root: Spec[Any], child: Spec[Any]) -> str:
    """Advice: another key of the recipe where the block works."""
    needs, slot = child.entry.block.capabilities.needs, child.entry.slot
    found = [
        (*path, name)
        for path, spec in root.walk()
        for name, parameter in spec.entry.parameters.items()
        if parameter.slot == slot and needs <= spec.entry.block.capabilities.positions
    ]
    return f", or move it to {dotted(found[0])!r}" if found else ""
