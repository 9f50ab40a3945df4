"""Generate random recipes that contain wanted choices, and search for a valid one."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, cast

from blockformer.conformance.block_case import SMALL
from blockformer.conformance.equal_streams import with_equal_streams
from blockformer.conformance.grammar import PATTERNS, Choice, Grammar, blocks_of, has_named_variant, label, values
from blockformer.conformance.validate import UNUSED, ValidRecipe, repair
from blockformer.conformance.variants import INTEGERS
from registry import Parameter, entries

Recipe = dict[str, Any]
Choices = Sequence[Choice]

OFTEN = 0.35  # probability that a parameter is set
NEAR = 0.7  # the same in a block with a wanted parameter, because options may need each other
TWO_LAYERS = 0.5  # probability that a stack has a pattern of two layers
AGREEING = 0.5  # probability that a number is the default of a parameter with the same name
DEEP, DEEPEST = 5, 9  # nesting below which only wanted parameters are set, and below which nothing is


class UnreachableError(Exception):
    """The wanted choices were distributed to blocks that cannot hold them; another attempt may succeed."""


class RecipeGenerator:
    """Generates random recipes from a grammar.

    Args:
        grammar: all choices.
        random: the source of randomness.
        often: probability that a parameter is set; with 0 only wanted choices are.
    """

    def __init__(self, grammar: Grammar, random: Random, often: float = OFTEN) -> None:
        self.grammar, self.random, self.often = grammar, random, often

    def recipe(self, wanted: Iterable[Choice] = (), model: str | None = None) -> Recipe:
        """A recipe with all ``wanted`` choices and small sizes, which need not be valid.

        Raises:
            UnreachableError: the choices found no place; another call may succeed.
        """
        wanted = list(wanted)
        names = [name for name in entries("model") if model in (None, name)]
        able = [name for name in names if all(self.grammar.reaches("model", name, choice) for choice in wanted)]
        if not able:
            raise UnreachableError
        return self._block("model", self.random.choice(able), wanted, 0)

    def _block(self, slot: str, name: str, wanted: Choices, depth: int) -> Recipe:
        if depth > DEEPEST:
            raise UnreachableError
        parameters = entries(slot)[name].parameters
        shares = self._distributed(slot, name, wanted)
        often = NEAR if self.often and any(w.startswith(f"{slot}/{name}.") for w in wanted) else self.often
        found: Recipe = {"type": name} | {key: SMALL[key] for key in SMALL if key in parameters}
        for key, parameter in parameters.items():
            if key not in SMALL and parameter.arity == "one":
                found |= self._parameter(slot, name, parameter, shares.get(key, []), depth, often)
        return found

    def _distributed(self, slot: str, name: str, wanted: Choices) -> dict[str, list[Choice]]:
        """The wanted choices by the parameter that leads to them, chosen at random."""
        shares: dict[str, list[Choice]] = {}
        for choice in wanted:
            if choice == f"{slot}/{name}":
                continue
            start = f"{slot}/{name}."
            here = choice.removeprefix(start).partition(":")[0] if choice.startswith(start) else ""
            keys = (
                [here] if here else [p.name for p in entries(slot)[name].parameters.values() if self._leads(p, choice)]
            )
            if not keys:
                raise UnreachableError
            shares.setdefault(self.random.choice(keys), []).append(choice)
        return shares

    def _leads(self, parameter: Parameter, choice: Choice) -> bool:
        return any(self.grammar.reaches(str(parameter.slot), child, choice) for child in blocks_of(parameter))

    def _parameter(
        self, slot: str, name: str, parameter: Parameter, wanted: Choices, depth: int, often: float
    ) -> Recipe:
        """The setting of one parameter; usually none if nothing is wanted there."""
        key = parameter.name
        if key == "pattern":
            return {}  # set together with the layers
        if has_named_variant(slot, name, parameter):
            return self._layers(slot, name, parameter, wanted, depth)
        small = parameter.slot == "stack"  # its default depth is too large
        if not wanted and not small and (depth > DEEP or self.random.random() >= often):
            return {}
        return {key: self._value(slot, name, parameter, wanted, depth)} if values(slot, name, key) else {}

    def _value(self, slot: str, name: str, parameter: Parameter, wanted: Choices, depth: int) -> Any:
        labels = {value: label(slot, name, parameter.name, value) for value in values(slot, name, parameter.name)}
        direct = {value: choice for value, choice in labels.items() if choice in self.grammar.number}
        able = list(direct)
        asked = [value for value in able if direct[value] in wanted]
        deeper = [choice for choice in wanted if choice not in direct.values()]
        blocks, inner = blocks_of(parameter), str(parameter.slot)
        if deeper or not asked:
            able = [v for v in able if all(v in blocks and self.grammar.reaches(inner, v, choice) for choice in deeper)]
        if len(asked) > 1 or not able or (asked and asked[0] not in able):
            raise UnreachableError
        chosen = asked[0] if asked else self._chosen(able)
        if chosen not in blocks:
            return list(cast("tuple[Any, ...]", chosen)) if isinstance(chosen, tuple) else chosen
        inside = self._block(inner, chosen, deeper, depth + 1)
        return inside if len(inside) > 1 else chosen

    def _chosen(self, able: Sequence[Any]) -> Any:
        """A random value; often a number that other blocks have by default, because such numbers have to agree."""
        usual = [value for value in able if type(value) is int and value not in INTEGERS]
        return self.random.choice(usual if usual and self.random.random() < AGREEING else able)

    def _layers(self, slot: str, name: str, parameter: Parameter, wanted: Choices, depth: int) -> Recipe:
        """One kind of layer, or two named layers in a pattern, which share the wanted choices."""
        prefix = f"{slot}/{name}.pattern: "
        shapes = [choice.removeprefix(prefix) for choice in wanted if choice.startswith(prefix)]
        wanted = [choice for choice in wanted if not choice.startswith(prefix)]
        if len(shapes) > 1:
            raise UnreachableError
        direct = {choice for choice in wanted if choice.startswith(f"{slot}/{name}.{parameter.name}: ")}
        if not shapes and len(direct) < 2 and self.random.random() >= (TWO_LAYERS if self.often else 0):
            said = wanted or self.random.random() < self.often
            return {parameter.name: self._value(slot, name, parameter, wanted, depth)} if said else {}
        dealt: tuple[list[Choice], list[Choice]] = ([], [])
        for index, choice in enumerate(sorted(wanted, key=lambda choice: choice not in direct)):
            dealt[index % 2 if choice in direct else self.random.randrange(2)].append(choice)
        named = next(p for p in entries(slot)[name].parameters.values() if p.arity == "named")
        layers = {key: self._value(slot, name, parameter, dealt[n], depth) for n, key in enumerate("ab")}
        shape = shapes[0] if shapes else self.random.choice(list(PATTERNS))
        return {named.name: layers, **PATTERNS[shape]}


BARE = 3  # attempts with nothing but the wanted choices, which may have several places
UNBUILT = "it is not built there"


@dataclass(frozen=True)
class Refused:
    """No valid recipe was found, and the most frequent reason."""

    reason: str


class Search:
    """Searches for valid recipes with wanted choices.

    Args:
        grammar: all choices.
        seed: seed of all randomness, a number or a text.

    Attributes:
        attempts: number of recipes that were ``generated``, and how many of these were ``refused`` as generated.
        refusals: number of recipes refused for each reason.
    """

    def __init__(self, grammar: Grammar, seed: int | str) -> None:
        self.grammar, self.random = grammar, Random(seed)
        self.attempts, self.refusals = Counter[str](), Counter[str]()

    def find(
        self, wanted: Sequence[Choice], tries: int, *, model: str | None = None, bare: bool = False
    ) -> ValidRecipe | Refused | None:
        """A valid recipe with all ``wanted`` choices.

        Args:
            wanted: the choices.
            tries: number of attempts with other random choices, besides a few without.
            model: the kind of model; any if None.
            bare: make the attempts without other choices first, not last.

        Returns:
            The recipe, or why all were refused, or None if no recipe could be generated.
        """
        reasons, rich, plain = Counter[str](), [OFTEN] * tries, [0.0] * (BARE * 8 if bare else BARE)
        for often in plain + rich if bare else rich + plain:
            if found := self.attempt(wanted, often, reasons, model):
                return found
        names = [choice.partition(":")[2].strip() or choice.partition("/")[2] for choice in wanted]
        best = sorted(
            reasons, key=lambda why: (why in (UNBUILT, UNUSED), -sum(f"'{n}'" in why for n in names), -reasons[why])
        )
        return Refused(best[0]) if best else None

    def attempt(
        self, wanted: Sequence[Choice], often: float, reasons: "Counter[str]", model: str | None = None
    ) -> ValidRecipe | None:
        """One attempt: the recipe if it is valid; otherwise its errors are added to ``reasons``."""
        try:
            tree = with_equal_streams(RecipeGenerator(self.grammar, self.random, often).recipe(wanted, model))
        except UnreachableError:
            return None
        refusals = list[str]()
        found = repair(tree, refusals, wanted)
        self.attempts["generated"] += 1
        self.attempts["refused"] += bool(refusals)
        self.refusals.update(set(refusals))
        if found is not None:
            return found
        reasons.update(refusals or [UNBUILT])
        return None
