"""Sentences about who eats what, in English and German: small enough to be learned in seconds."""

from collections.abc import Iterator
from itertools import product
from random import Random
from typing import NamedTuple


class Animal(NamedTuple):
    """An animal, its food, and both in German with the animal's relative pronoun."""

    name: str
    food: str
    german: str
    pronoun: str
    german_food: str


ANIMALS = (
    Animal("cat", "fish", "Katze", "die", "Fisch"),
    Animal("dog", "meat", "Hund", "der", "Fleisch"),
    Animal("cow", "grass", "Kuh", "die", "Gras"),
    Animal("bird", "seeds", "Vogel", "der", "Samen"),
    Animal("monkey", "fruit", "Affe", "der", "Obst"),
    Animal("mouse", "cheese", "Maus", "die", "Käse"),
    Animal("horse", "hay", "Pferd", "das", "Heu"),
    Animal("bear", "honey", "Bär", "der", "Honig"),
)
VERBS = (("sees", "sieht"), ("hears", "hört"), ("follows", "verfolgt"), ("likes", "mag"))


def pairs() -> list[tuple[str, str]]:
    """Every sentence with its translation, in a fixed random order.

    What is eaten depends on the first animal, also where another one stands nearer.
    """
    found = list(_pairs())
    Random(0).shuffle(found)
    return found


def _pairs() -> Iterator[tuple[str, str]]:
    for one in ANIMALS:
        yield f"{one.name} eats {one.food}", f"{one.german} frisst {one.german_food}"
    for one, other, (verb, german) in product(ANIMALS, ANIMALS, VERBS):
        if one is not other:
            eats, frisst = f"eats {one.food}", f"frisst {one.german_food}"
            yield f"{one.name} {verb} {other.name} and {eats}", f"{one.german} {german} {other.german} und {frisst}"
            relative = f"{one.german}, {one.pronoun} {other.german} {german}, {frisst}"
            yield f"{one.name} that {verb} {other.name} {eats}", relative
