"""What is registered, in words: for the command line, the block reference and editors."""

from dataclasses import dataclass
from typing import Any

from registry.core import Entry, entries, slots
from registry.schema import parameter_type
from registry.words import details, in_words, prose, summary


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
    """One block: what it computes, where the idea comes from, what a recipe may say about it."""

    slot: str
    name: str
    summary: str
    details: str
    paper: str
    abilities: tuple[str, ...]
    parameters: tuple[DescribedParameter, ...]


def catalogue() -> dict[str, list[DescribedBlock]]:
    """Every block of every slot, both in alphabetical order."""
    return {slot: [described(entry) for _, entry in sorted(entries(slot).items())] for slot in slots()}


def described(entry: Entry) -> DescribedBlock:
    """A registered block in words."""
    parameters = (
        DescribedParameter(p.name, in_words(parameter_type(p.annotation)), p.slot, p.default, prose(p.description))
        for p in entry.parameters.values()
    )
    block = entry.block
    return DescribedBlock(
        entry.slot, entry.name, summary(block), details(block), block.paper, tuple(block.can.words()), tuple(parameters)
    )


def meaning(slot: str) -> str:
    """One line on what a slot is for: the first of the docstring of the class that stands for it."""
    block = next(iter(entries(slot).values())).block
    owner = next(base for base in block.__mro__ if "slot" in vars(base))
    return summary(owner)


def keys_of(slot: str) -> list[str]:
    """The recipe keys that open a slot, the most frequent first."""
    found = [
        p.name for other in slots() for e in entries(other).values() for p in e.parameters.values() if p.slot == slot
    ]
    return sorted(dict.fromkeys(found), key=lambda key: (-found.count(key), found.index(key)))
