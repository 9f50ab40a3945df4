"""The gallery of published models: a page for each group, with diagrams and the differences to the nearest others."""

import re
from collections.abc import Iterator
from functools import cache
from itertools import chain

import pictures

import blockformer as bf
from blockformer.assembly.recipe_diff import Change, compare
from blockformer.reference.uses import group_of
from blocks.models.base import Model
from registry import Recipe, builtin_recipes, load_recipe
from registry.recipe import description_of

NEIGHBOURS = 2
PICTURE = re.compile(r"^<!-- picture of (\S+) -->$", re.M)


@cache
def groups() -> dict[str, list[str]]:
    """The published recipes of each group."""
    found: dict[str, list[str]] = {}
    for name in builtin_recipes():
        if group := group_of(name):
            found.setdefault(group, []).append(name)
    return found


@cache
def architectures(group: str) -> dict[str, list[str]]:
    """The smallest recipe of each architecture of a group, with all that differ from it in sizes alone."""
    alike: dict[frozenset[str], list[str]] = {}
    for name in sorted(groups()[group], key=lambda name: (_width(name), name)):
        alike.setdefault(traits(name), []).append(name)
    return {names[0]: names for names in alike.values()}


@cache
def traits(name: str) -> frozenset[str]:
    """What makes the architecture of a recipe: its blocks, each at its place, and their settings that are no sizes."""
    found: set[str] = set()
    for path, spec in _recipe(name).spec.walk():
        place = ".".join(str(key) for key in path if not isinstance(key, int))
        found.add(f"{place}: {spec.entry.name}")
        for key, value in spec.params:
            known = spec.entry.parameters[key]
            if isinstance(value, bool | str) and value != known.default and not known.runtime:
                found.add(f"{place}.{key}: {value}")
    return frozenset(found)


def neighbours(name: str) -> list[str]:
    """The recipes of other architectures that have the most traits in common with this one."""
    others = [other for group in groups() for other in architectures(group) if other != name]
    return sorted(others, key=lambda other: (len(traits(name) ^ traits(other)), other))[:NEIGHBOURS]


def page(group: str) -> str:
    """The page of a group."""
    command = f"blockformer show {groups()[group][0]} --format svg"
    parts = [f"# {group}", f"The diagrams are drawn from the recipes, as by `{command}`."]
    architecture = (_architecture(name, alike) for name, alike in architectures(group).items())
    return "\n\n".join(chain(parts, *architecture)) + "\n"


def _architecture(name: str, alike: list[str]) -> Iterator[str]:
    yield f"## {name}"
    yield _described(name)
    if alike[1:]:
        yield f"With other sizes: {', '.join(f'`{other}`' for other in alike[1:])}."
    yield f"<!-- picture of {name} -->"
    for other in neighbours(name):
        yield from _difference(other, name)


def _difference(other: str, name: str) -> Iterator[str]:
    """A table of what is different in kind from a neighbour."""
    changes = [change for change in compare(_model(other), _model(name)) if not _is_size(change)]
    yield f"### {name}, compared with {other}"
    if not changes:
        yield "Sizes only."
    else:
        rows = (
            f"| {'; '.join(place or 'model' for place in change.places)} | {change.key or change.slot} "
            f"| {_cell(change.old)} | {_cell(change.new)}{f' ({change.note})' if change.note else ''} |"
            for change in changes
        )
        yield "\n".join([f"| where | what | {other} | {name} |", "| --- | --- | --- | --- |", *rows])
    yield f"`blockformer diff {other} {name}` lists the sizes too. [{other}]({group_of(other)}.md#{_anchor(other)})"


def _is_size(change: Change) -> bool:
    return all(re.fullmatch(r"-?[\d.e-]+|null( \([\d.]+\))?", value) for value in (change.old, change.new))


def _cell(text: str) -> str:
    return f"`{text}`" if text else ""


def with_pictures(markdown: str, drawn: pictures.Pictures) -> str:
    """The page of a group with the diagrams."""
    return PICTURE.sub(lambda found: drawn.figure_of_model(found[1], [], ""), markdown)


def with_cards(markdown: str, drawn: pictures.Pictures) -> str:
    """The list of models, with a gallery of the groups before it and a link in each section."""
    cards = "\n\n".join(_card(group, drawn) for group in sorted(groups()))
    gallery = f'<div class="gallery" markdown>\n\n{cards}\n\n</div>\n\n'
    before, section, rest = markdown.partition("## ")
    text = before + gallery + section + rest
    for group in groups():
        text = text.replace(f"\n## {group}\n", f"\n## {group}\n\n[Diagrams and differences](models/{group}.md)\n")
    return text


def _card(group: str, drawn: pictures.Pictures) -> str:
    first = next(iter(architectures(group)))
    kinds = ", ".join(dict.fromkeys(_recipe(name).spec.entry.name for name in groups()[group]))
    text = f"**{group}** {kinds}, {len(groups()[group])} recipes"
    return f"[{text} ![]({drawn.layer(first)}){{ loading=lazy }}](models/{group}.md)"


def _described(name: str) -> str:
    text = description_of(builtin_recipes()[name])
    text = re.sub(r"[*|<]", lambda found: "&lt;" if found[0] == "<" else f"\\{found[0]}", text)
    text = re.sub(r"https://[^\s,;:)]*[^\s,;:).]", lambda found: f"<{found[0]}>", text)
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def _anchor(name: str) -> str:
    return re.sub(r"[^\w-]", "", name)


@cache
def _recipe(name: str) -> Recipe:
    return load_recipe(name)


@cache
def _model(name: str) -> Model:
    return bf.check(_recipe(name))


def _width(name: str) -> int:
    dim = dict(_recipe(name).spec.params)["dim"]
    return int(dim)
