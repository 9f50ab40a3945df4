"""The blocks that a command is to run checks on."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from pydantic import ValidationError

import blocks  # noqa: F401  (importing registers)
from blockformer.conformance import Subject, registered, subjects
from blockformer.errors import UserError
from registry import Mark, Problem, RecipeError, entries, entry_of, parse, slots
from registry.diagnosis import problems_in
from registry.errors import nearest
from registry.merge import with_override
from registry.plugins import load_named
from registry.recipe import assignments
from registry.strict_yaml import Map, as_plain


def subjects_of(place: str, params: list[str]) -> list[Subject]:
    """Blocks at every place where they can stand.

    Args:
        place: ``MODULE:CLASS``, ``MODULE`` for all that it registers, or ``SLOT/NAME``.
        params: ``key=value``, what a recipe would say about them; of one block only.

    Raises:
        UserError: there is no such block, or it refuses the parameters everywhere.
        PluginError: the module cannot be imported.
        RecipeError: a parameter is wrong.
    """
    if "/" in place:
        found = _registered(*place.split("/", 1))
    else:
        module, _, name = place.partition(":")
        found = _of_class(module, name) if name else _of_module(module)
    return _with(found, params) if params else found


def _registered(slot: str, name: str) -> list[Subject]:
    for kind, wanted, known in (("slot", slot, slots()), (slot, name, entries(slot))):
        if wanted not in known:
            raise UserError(f"no {kind} is called {wanted!r}; {nearest(wanted, known) or 'known: ' + ', '.join(known)}")
    return subjects(slot, name)


def _of_class(module: str, name: str) -> list[Subject]:
    block = getattr(_imported(module), name, None)
    if block is None:
        raise UserError(f"module {module!r} has no {name!r}; {_offer(module)}")
    try:
        entry = entry_of(block)
    except (KeyError, AttributeError, TypeError):
        raise UserError(f"{module}:{name} is no registered block; write @register above the class") from None
    return subjects(entry.slot, entry.name)


def _of_module(module: str) -> list[Subject]:
    _imported(module)
    found = registered(module)
    if not found:
        raise UserError(f"module {module!r} registers no blocks")
    return found


def _imported(module: str) -> object:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    load_named([module])
    return import_module(module)


def _offer(module: str) -> str:
    names = sorted({entries(s.slot)[s.name].block.__qualname__ for s in registered(module)})
    return f"it registers {', '.join(names)}" if names else "it registers no blocks"


def _with(found: list[Subject], params: list[str]) -> list[Subject]:
    if len({(subject.slot, subject.name) for subject in found}) > 1:
        raise UserError("--param is for one block: name its class too, as MODULE:CLASS")
    said = _said(found[0], params)
    changed = [replace(subject, params={**subject.params, **said}) for subject in found]
    refusals = dict(_refusals(changed))
    if len(refusals) == len(changed):
        raise UserError(f"{found[0].slot}/{found[0].name}: {next(iter(refusals.values()))}")
    return [subject for subject in changed if subject.id not in refusals]


def _said(subject: Subject, params: list[str]) -> dict[str, object]:
    tree = Map({"type": subject.name}, mark=Mark("--param"))
    for key, value, mark in assignments(params):
        if key == "type" or not key:
            raise RecipeError([Problem(mark, "", "names the block, which stands before the options")])
        tree = with_override(tree, key, value, mark)
    try:
        parse(subject.slot, as_plain(tree))
    except ValidationError as error:
        raise RecipeError(problems_in(subject.slot, tree, error)) from None
    return {key: value for key, value in as_plain(tree).items() if key != "type"}


def _refusals(changed: list[Subject]) -> Iterator[tuple[str, str]]:
    for subject in changed:
        try:
            subject.make()
        except ValueError as error:
            yield subject.id, str(error)
