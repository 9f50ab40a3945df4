"""The recipes of the full run: every choice, every pair of blocks, many pairs of options, and random triples."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from blockformer.conformance.generate import OFTEN, Search
from blockformer.conformance.grammar import Choice, Grammar
from blockformer.conformance.validate import ValidRecipe

ALONE, BLOCKS = 150, 100  # attempts for one choice, and for two blocks, before they count as refused
NOT_GENERATED = "no recipe with it was generated"


@dataclass(frozen=True)
class PlannedRecipe:
    """A recipe, and the choices for which it was generated."""

    how: Literal["choice", "pair", "triple"]
    wanted: tuple[Choice, ...]
    valid: ValidRecipe


class CoveragePlan:
    """Generates recipes and records which choices were together in one.

    Args:
        seed: seed of all randomness; the same seed and registry give the same recipes.

    Attributes:
        never: choices that no valid recipe has, with the reason.
        accepted: (N, N) bool, which choices were together in a valid recipe.
        refused: pairs that were refused in every attempt, with the reason.
    """

    def __init__(self, seed: int = 0) -> None:
        self.grammar = Grammar.read()
        self.search = Search(self.grammar, seed)
        self.never, self.refused = dict[Choice, str](), dict[tuple[Choice, ...], str]()
        self.accepted = torch.zeros_like(self.grammar.together)

    def singles(self) -> Iterator[PlannedRecipe]:
        """Recipes that together make every choice; choices that none could make are left out from here on."""
        for number, choice in enumerate(self.grammar.choices):
            if self.accepted[number, number]:
                continue
            found = self.search.find((choice,), ALONE)
            if isinstance(found, ValidRecipe):
                yield self._recorded(PlannedRecipe("choice", (choice,), found))
            else:
                self.never[choice] = found.reason if found else NOT_GENERATED
        met = [number for number, choice in enumerate(self.grammar.choices) if choice not in self.never]
        self.grammar, self.accepted = Grammar.read(self.never), self.accepted[met][:, met]
        self.search.grammar = self.grammar

    def pairs(self, count: int) -> Iterator[PlannedRecipe]:
        """Recipes for pairs of choices that were not together yet: pairs of blocks first, then all others, shuffled.

        A pair of blocks is attempted until it is accepted or counts as refused, each of the other pairs once.
        """
        blocks = self._shuffled(blocks_only=True)
        for index, (one, other) in enumerate([*blocks, *self._shuffled()]):
            if count <= 0:
                return
            if self.accepted[one, other]:
                continue
            wanted = self.grammar.choices[one], self.grammar.choices[other]
            if index < len(blocks):
                found = self.search.find(wanted, BLOCKS)
            else:
                found = self.search.attempt(wanted, OFTEN, Counter())
            if isinstance(found, ValidRecipe):
                count -= 1
                yield self._recorded(PlannedRecipe("pair", wanted, found))
            elif index < len(blocks):
                self.refused[wanted] = found.reason if found else NOT_GENERATED

    def triples(self, count: int) -> Iterator[PlannedRecipe]:
        """Recipes with three random choices and few others."""
        while count > 0:
            wanted = tuple(self.search.random.sample(self.grammar.choices, 3))
            found = self.search.find(wanted, 0) if self._can_be_together(wanted) else None
            if isinstance(found, ValidRecipe):
                count -= 1
                yield self._recorded(PlannedRecipe("triple", wanted, found))

    def figures(self) -> dict[str, Any]:
        """Numbers of attempts, refusals and covered pairs, as plain data."""
        return {
            "attempts": dict(self.search.attempts),
            "refusals": dict(self.search.refusals.most_common()),
            "never": self.never,
            "block_pairs": self._coverage(blocks_only=True),
            "all_pairs": self._coverage(blocks_only=False),
            "refused_blocks": {" + ".join(pair): why for pair, why in self.refused.items() if _are_blocks(pair)},
        }

    def _coverage(self, *, blocks_only: bool) -> dict[str, int]:
        table = self._table(blocks_only)
        refused = [pair for pair in self.refused if not blocks_only or _are_blocks(pair)]
        still = [pair for pair in refused if not self.accepted[tuple(self.grammar.number[c] for c in pair)]]
        accepted = int((table & self.accepted).sum())
        return {"possible": int(table.sum()), "accepted": accepted, "refused": len(still)}

    def _recorded(self, planned: PlannedRecipe) -> PlannedRecipe:
        numbers = self.grammar.numbers(planned.valid.choices)
        self.accepted[numbers[:, None], numbers] = True
        return planned

    def _can_be_together(self, wanted: tuple[Choice, ...]) -> bool:
        numbers = sorted(self.grammar.number[choice] for choice in wanted)
        return all(bool(self.grammar.together[a, b]) for a in numbers for b in numbers if a < b)

    def _table(self, blocks_only: bool) -> Tensor:
        blocks = torch.tensor(["." not in choice for choice in self.grammar.choices])
        together = self.grammar.together
        return together & blocks[:, None] & blocks if blocks_only else together

    def _shuffled(self, blocks_only: bool = False) -> list[list[int]]:
        found = cast("list[list[int]]", cast("Any", self._table(blocks_only).nonzero()).tolist())
        self.search.random.shuffle(found)
        return found


def _are_blocks(pair: tuple[Choice, ...]) -> bool:
    return not any("." in choice for choice in pair)
