"""What is registered, described for the command line, editors and the block reference (a Markdown page a slot)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from registry.registration import Entry, entries, option_slots, slot_named, slots
from registry.schema import parameter_type
from registry.text import as_yaml, details, prose, summary, type_in_words

MADE = "<!-- Made by `make schema` from the blocks themselves; not for editing. -->"


@dataclass(frozen=True)
class DescribedParameter:
    """One parameter as a recipe's author reads it; ``slot`` is the slot that it opens, if any."""

    name: str
    type: str
    slot: str | None
    default: Any
    description: str


@dataclass(frozen=True)
class DescribedBlock:
    """One block as the author of a recipe reads it."""

    slot: str
    name: str
    summary: str
    details: str
    paper: str
    abilities: tuple[str, ...]
    parameters: tuple[DescribedParameter, ...]


def catalogue() -> dict[str, list[DescribedBlock]]:
    """Every block of every slot, both in alphabetical order."""
    known = sorted([*slots(), *option_slots()])
    return {slot: [describe(entry) for _, entry in sorted(entries(slot).items())] for slot in known}


def describe(entry: Entry) -> DescribedBlock:
    """A registered block in words."""
    parameters = (
        DescribedParameter(p.name, type_in_words(parameter_type(p.annotation)), p.slot, p.default, prose(p.description))
        for p in entry.parameters.values()
    )
    block = entry.block
    return DescribedBlock(
        entry.slot,
        entry.name,
        summary(block),
        details(block),
        block.paper,
        tuple(block.capabilities.describe()),
        tuple(parameters),
    )


def keys_of(slot: str) -> list[str]:
    """The recipe keys that open a slot, the most frequent first."""
    found = [
        p.name for other in slots() for e in entries(other).values() for p in e.parameters.values() if p.slot == slot
    ]
    return sorted(dict.fromkeys(found), key=lambda key: (-found.count(key), found.index(key)))


def pages() -> dict[str, str]:
    """Every page by its file name: an index of the slots, and one page a slot."""
    known = catalogue()
    return {"index.md": _index(known), **{f"{slot}.md": _page(slot, found) for slot, found in known.items()}}


def _index(known: Mapping[str, list[DescribedBlock]]) -> str:
    rows = [
        f"| [{slot}]({slot}.md) | {slot_named(slot).description} | {_links(slot, found)} |"
        for slot, found in known.items()
    ]
    intro = "A slot is a place in a recipe, or an option of `blockformer fit`, that any of its blocks can fill."
    return _joined(
        [MADE, "# Blocks", intro, "\n".join(["| slot | what fills it | blocks |", "| --- | --- | --- |", *rows])]
    )


def _links(slot: str, found: list[DescribedBlock]) -> str:
    return ", ".join(f"[{block.name}]({slot}.md#{block.name})" for block in found)


def _page(slot: str, found: list[DescribedBlock]) -> str:
    keys, option = keys_of(slot), slot_named(slot).option
    where = f"Recipe keys: {' or '.join(f'`{key}:`' for key in keys)}." if keys else "It is the recipe itself."
    where = f"Option: `--{option} NAME`, with its parameters beside it." if option else where
    blocks = [part for block in found for part in _block(block, keys[0] if keys else None)]
    return _joined([MADE, f"# {slot}", f"{slot_named(slot).description} {where}", *blocks])


def _block(block: DescribedBlock, key: str | None) -> Iterator[str]:
    yield f"## {block.name}"
    yield " ".join(filter(None, [_escaped(block.summary), _escaped(block.details)]))
    if block.paper:
        yield f"*Source: {_escaped(block.paper)}*"
    if block.abilities:
        yield f"It {'; '.join(block.abilities)}."
    yield _table(block) if block.parameters else "No parameters."
    yield f'```yaml title="with all defaults"\n{_example(block, key)}\n```'


def _table(block: DescribedBlock) -> str:
    rows = [
        f"| `{p.name}` | {_type(p)} | `{as_yaml(p.default)}` | {_escaped(p.description)} |" for p in block.parameters
    ]
    return "\n".join(["| parameter | takes | default | meaning |", "| --- | --- | --- | --- |", *rows])


def _type(parameter: DescribedParameter) -> str:
    words, slot = _escaped(parameter.type), parameter.slot
    return words.replace(slot, f"[{slot}]({slot}.md)", 1) if slot else words


def _example(block: DescribedBlock, key: str | None) -> str:
    """The block in a recipe or a configuration file, with every parameter at its default."""
    group, _, name = (slot_named(block.slot).option or "").rpartition(".")
    key = group or key
    values = {name or "type": block.name} | {parameter.name: parameter.default for parameter in block.parameters}
    lines = [f"{name}: {as_yaml(value)}" for name, value in values.items()]
    return "\n".join(lines if key is None else [f"{key}:", *(f"  {line}" for line in lines)])


def _escaped(text: str) -> str:
    """Text without what Markdown would take for mark-up or for a new column, code excepted."""
    parts = text.split("`")
    for mark, written in (("*", r"\*"), ("|", r"\|"), ("<", "&lt;")):
        parts[::2] = [part.replace(mark, written) for part in parts[::2]]
    return "`".join(parts)


def _joined(parts: list[str]) -> str:
    return "\n\n".join(parts) + "\n"
