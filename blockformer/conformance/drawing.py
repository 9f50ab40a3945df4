"""Random recipes that say what they are wished to say."""

from collections.abc import Iterable, Sequence
from random import Random
from typing import Any, cast

from blockformer.conformance.choices import SHAPES, Choice, Grammar, blocks_of, label, plural, values
from blockformer.conformance.subject import SMALL
from blockformer.conformance.variants import INTEGERS
from registry import Parameter, entries

Recipe = dict[str, Any]
Wishes = Sequence[Choice]

OFTEN, TWO_LAYERS = 0.35, 0.5  # how often a parameter is not left at its default, and a stack has two layers
NEAR = 0.7  # the same, beside a wish: options may need each other
AGREEING = 0.5  # how often a number is one that others have
DEEP, DEEPEST = 5, 9  # no chance below the first, no wish below the second


class ImpossibleError(Exception):
    """These wishes went to places that cannot hold them all; another draw may place them otherwise."""


class Drawer:
    """Draws recipes from a grammar.

    Args:
        grammar: what there is to say.
        random: the source of chance.
        often: how often a parameter is not left at its default: 0 says nothing but what is wished.
    """

    def __init__(self, grammar: Grammar, random: Random, often: float = OFTEN) -> None:
        self.grammar, self.random, self.often = grammar, random, often

    def recipe(self, wishes: Iterable[Choice] = (), model: str | None = None) -> Recipe:
        """A recipe, as a mapping, that says all of ``wishes``; sizes are small.

        Raises:
            ImpossibleError: this time it did not.
        """
        wishes = list(wishes)
        names = [name for name in entries("model") if model in (None, name)]
        able = [name for name in names if all(self.grammar.reaches("model", name, wish) for wish in wishes)]
        if not able:
            raise ImpossibleError
        return self._block("model", self.random.choice(able), wishes, 0)

    def _block(self, slot: str, name: str, wishes: Wishes, depth: int) -> Recipe:
        if depth > DEEPEST:
            raise ImpossibleError
        parameters = entries(slot)[name].parameters
        shares = self._shared_out(slot, name, wishes)
        often = NEAR if self.often and any(w.startswith(f"{slot}/{name}.") for w in wishes) else self.often
        found: Recipe = {"type": name} | {key: SMALL[key] for key in SMALL if key in parameters}
        for key, parameter in parameters.items():
            if key not in SMALL and parameter.arity != "named":
                found |= self._parameter(slot, name, parameter, shares.get(key, []), depth, often)
        return found

    def _shared_out(self, slot: str, name: str, wishes: Wishes) -> dict[str, list[Choice]]:
        """Which parameter is to see to each wish."""
        shares: dict[str, list[Choice]] = {}
        for wish in wishes:
            if wish == f"{slot}/{name}":
                continue
            start = f"{slot}/{name}."
            here = wish.removeprefix(start).partition(":")[0] if wish.startswith(start) else ""
            keys = [here] if here else [p.name for p in entries(slot)[name].parameters.values() if self._leads(p, wish)]
            if not keys:
                raise ImpossibleError
            shares.setdefault(self.random.choice(keys), []).append(wish)
        return shares

    def _leads(self, parameter: Parameter, wish: Choice) -> bool:
        return any(self.grammar.reaches(str(parameter.slot), child, wish) for child in blocks_of(parameter))

    def _parameter(
        self, slot: str, name: str, parameter: Parameter, wishes: Wishes, depth: int, often: float
    ) -> Recipe:
        """What is said of one parameter: nothing, mostly, if it has no wishes."""
        key = parameter.name
        if key == "pattern":
            return {}  # said together with the layers
        if plural(slot, name, parameter):
            return self._layers(slot, name, parameter, wishes, depth)
        small = parameter.slot == "stack"  # its default depth is too much
        if not wishes and not small and (depth > DEEP or self.random.random() >= often):
            return {}
        return {key: self._value(slot, name, parameter, wishes, depth)} if values(slot, name, key) else {}

    def _value(self, slot: str, name: str, parameter: Parameter, wishes: Wishes, depth: int) -> Any:
        labels = {value: label(slot, name, parameter.name, value) for value in values(slot, name, parameter.name)}
        direct = {value: said for value, said in labels.items() if said in self.grammar.number}
        able = list(direct)
        asked = [value for value in able if direct[value] in wishes]
        deeper = [wish for wish in wishes if wish not in direct.values()]
        blocks, inner = blocks_of(parameter), str(parameter.slot)
        if deeper or not asked:
            able = [v for v in able if all(v in blocks and self.grammar.reaches(inner, v, wish) for wish in deeper)]
        if len(asked) > 1 or not able or (asked and asked[0] not in able):
            raise ImpossibleError
        chosen = asked[0] if asked else self._chosen(able)
        if chosen not in blocks:
            return list(cast("tuple[Any, ...]", chosen)) if isinstance(chosen, tuple) else chosen
        inside = self._block(inner, chosen, deeper, depth + 1)
        return inside if len(inside) > 1 else chosen

    def _chosen(self, able: Sequence[Any]) -> Any:
        """Any of the values, but mostly numbers that other blocks have by default: they have to agree."""
        usual = [value for value in able if type(value) is int and value not in INTEGERS]
        return self.random.choice(usual if usual and self.random.random() < AGREEING else able)

    def _layers(self, slot: str, name: str, parameter: Parameter, wishes: Wishes, depth: int) -> Recipe:
        """One layer for all, or two by name in a pattern; with two, the wishes are dealt out to them."""
        prefix = f"{slot}/{name}.pattern: "
        shapes = [wish.removeprefix(prefix) for wish in wishes if wish.startswith(prefix)]
        wishes = [wish for wish in wishes if not wish.startswith(prefix)]
        if len(shapes) > 1:
            raise ImpossibleError
        direct = {wish for wish in wishes if wish.startswith(f"{slot}/{name}.{parameter.name}: ")}
        if not shapes and len(direct) < 2 and self.random.random() >= (TWO_LAYERS if self.often else 0):
            said = wishes or self.random.random() < self.often
            return {parameter.name: self._value(slot, name, parameter, wishes, depth)} if said else {}
        dealt: tuple[list[Choice], list[Choice]] = ([], [])
        for index, wish in enumerate(sorted(wishes, key=lambda wish: wish not in direct)):
            dealt[index % 2 if wish in direct else self.random.randrange(2)].append(wish)
        named = next(p for p in entries(slot)[name].parameters.values() if p.arity == "named")
        layers = {key: self._value(slot, name, parameter, dealt[n], depth) for n, key in enumerate("ab")}
        shape = shapes[0] if shapes else self.random.choice(list(SHAPES))
        return {named.name: layers, **SHAPES[shape]}
