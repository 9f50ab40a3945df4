"""Describe the registered blocks, for the command line, editors and the block reference."""

from dataclasses import dataclass
from typing import Any

from registry.registration import Entry, entries, option_slots, slots
from registry.schema import parameter_type
from registry.text import details, prose, summary, type_in_words


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
    formula: str
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
        block.formula,
        tuple(block.capabilities.describe()),
        tuple(parameters),
    )


def keys_of(slot: str) -> list[str]:
    """The recipe keys that open a slot, the most frequent first."""
    found = [
        p.name for other in slots() for e in entries(other).values() for p in e.parameters.values() if p.slot == slot
    ]
    return sorted(dict.fromkeys(found), key=lambda key: (-found.count(key), found.index(key)))
