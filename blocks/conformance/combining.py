"""Recipes drawn from the registry itself, chosen so that few of them hold many pairs of options together."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from random import Random
from typing import Any, cast

from blocks.conformance.subject import Subject, subjects
from blocks.conformance.variants import allowed, options
from registry import Parameter, entries

Choice = tuple[str, str]  # where in the recipe, and what it says there

DEEPEST = 5
SAID = 0.35  # how often a parameter is not left at its default


@dataclass(frozen=True)
class Combination:
    """A whole recipe and what it says."""

    subject: Subject
    choices: frozenset[Choice]

    @property
    def pairs(self) -> set[tuple[Choice, Choice]]:
        """All that it says, two at a time."""
        return set(combinations(sorted(self.choices), 2))


def covering(model: str, count: int, *, seed: int = 0, drawn: int = 12) -> list[Combination]:
    """``count`` recipes for a kind of model, each the best of ``drawn`` by the number of pairs that it adds.

    Args:
        model: name of the model's block.
        count: number of recipes.
        seed: of the random draws; the same seed and registry give the same recipes.
        drawn: number of recipes to choose from, each time.
    """
    stream, found, seen = combinations_of(model, seed), list[Combination](), set[tuple[Choice, Choice]]()
    while len(found) < count:
        best = max((next(stream) for _ in range(drawn)), key=lambda candidate: len(candidate.pairs - seen))
        label = f"{model} {len(found)}"
        found.append(replace(best, subject=replace(best.subject, label=label)))
        seen |= best.pairs
    return found


def combinations_of(model: str, seed: int = 0) -> Iterator[Combination]:
    """Random recipes that can be built, without end."""
    random, start = Random(seed), subjects("model", model)[0]
    while True:
        choices: dict[str, str] = {}
        params = _drawn("model", model, random, "", choices, start.params)
        subject = Subject("model", model, params, start.place)
        if allowed(subject):
            yield Combination(subject, frozenset(choices.items()))


def _drawn(
    slot: str, name: str, random: Random, path: str, choices: dict[str, str], given: Mapping[str, Any]
) -> dict[str, Any]:
    """What a recipe says about one block; ``choices`` notes all that is not a default."""
    params = dict(given)
    for parameter in entries(slot)[name].parameters.values():
        where = f"{path}.{parameter.name}".lstrip(".")
        inside = cast("Mapping[str, Any]", params.get(parameter.name) or {})
        value = _value(parameter, random, where, choices, inside)
        if value is not None:
            params[parameter.name] = value
    return params


def _value(parameter: Parameter, random: Random, where: str, choices: dict[str, str], given: Mapping[str, Any]) -> Any:
    possible = [value for value in options(parameter) if value is not None]
    opens = parameter.slot is not None and parameter.arity == "one"
    if not possible or (random.random() > SAID and not given):
        return None
    chosen = random.choice(possible)
    if not opens:
        choices[where] = str(chosen)
        return chosen
    choices[where] = chosen
    if where.count(".") > DEEPEST:
        return {"type": chosen}
    return {"type": chosen, **_drawn(str(parameter.slot), chosen, random, where, choices, given)}
