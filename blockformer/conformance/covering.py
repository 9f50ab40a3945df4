"""Which recipes the full run takes: all is said, all blocks meet, as many options as can, and random triples."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from blockformer.conformance.admitting import Admitted
from blockformer.conformance.choices import Choice, Grammar
from blockformer.conformance.drawing import OFTEN
from blockformer.conformance.trying import Trials

ALONE, BLOCKS = 150, 100  # contexts to try for one choice and for two blocks before they count as refused

UNDRAWN = "no recipe was drawn that says it"


@dataclass(frozen=True)
class Drawn:
    """A recipe of the plan: why it was drawn, and what it is."""

    how: Literal["choice", "pair", "triple"]
    wishes: tuple[Choice, ...]
    admitted: Admitted


class Plan:
    """Draws recipes one after another, and notes what met what.

    Args:
        seed: of all chance; the same seed and registry give the same recipes.

    Attributes:
        never: what no recipe could say, and why it was refused.
        accepted: (N, N) bool, which choices stood together in a recipe that was accepted.
        refused: which two were refused wherever they were tried, and why.
    """

    def __init__(self, seed: int = 0) -> None:
        self.grammar = Grammar.read()
        self.trials = Trials(self.grammar, seed)
        self.never, self.refused = dict[Choice, str](), dict[tuple[Choice, ...], str]()
        self.accepted = torch.zeros_like(self.grammar.together)

    def singles(self) -> Iterator[Drawn]:
        """Recipes that say, between them, all that can be said; what none could say is left out from here on."""
        for number, choice in enumerate(self.grammar.choices):
            if self.accepted[number, number]:
                continue
            found = self.trials.find((choice,), ALONE)
            if isinstance(found, Admitted):
                yield self._noted(Drawn("choice", (choice,), found))
            else:
                self.never[choice] = found.reason if found else UNDRAWN
        met = [number for number, choice in enumerate(self.grammar.choices) if choice not in self.never]
        self.grammar, self.accepted = Grammar.read(self.never), self.accepted[met][:, met]
        self.trials.grammar = self.grammar

    def pairs(self, count: int) -> Iterator[Drawn]:
        """Recipes for two choices each that have not met: blocks first, then all else, in random order.

        Two blocks are tried until they meet or count as refused; of the many other pairs, each is tried once.
        """
        blocks = self._shuffled(blocks_only=True)
        for index, (one, other) in enumerate([*blocks, *self._shuffled()]):
            if count <= 0:
                return
            if self.accepted[one, other]:
                continue
            wishes = self.grammar.choices[one], self.grammar.choices[other]
            if index < len(blocks):
                found = self.trials.find(wishes, BLOCKS)
            else:
                found = self.trials.once(wishes, OFTEN, Counter())
            if isinstance(found, Admitted):
                count -= 1
                yield self._noted(Drawn("pair", wishes, found))
            elif index < len(blocks):
                self.refused[wishes] = found.reason if found else UNDRAWN

    def triples(self, count: int) -> Iterator[Drawn]:
        """Recipes that change three things, chosen at random, of the smallest recipe that has a place for them."""
        while count > 0:
            wishes = tuple(self.trials.random.sample(self.grammar.choices, 3))
            found = self.trials.find(wishes, 0) if self._could_stand(wishes) else None
            if isinstance(found, Admitted):
                count -= 1
                yield self._noted(Drawn("triple", wishes, found))

    def figures(self) -> dict[str, Any]:
        """What was drawn, refused and covered, as plain data."""
        return {
            "attempts": dict(self.trials.attempts),
            "refusals": dict(self.trials.refusals.most_common()),
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

    def _noted(self, drawn: Drawn) -> Drawn:
        numbers = self.grammar.numbers(drawn.admitted.said)
        self.accepted[numbers[:, None], numbers] = True
        return drawn

    def _could_stand(self, wishes: tuple[Choice, ...]) -> bool:
        numbers = sorted(self.grammar.number[wish] for wish in wishes)
        return all(bool(self.grammar.together[a, b]) for a in numbers for b in numbers if a < b)

    def _table(self, blocks_only: bool) -> Tensor:
        blocks = torch.tensor(["." not in choice for choice in self.grammar.choices])
        together = self.grammar.together
        return together & blocks[:, None] & blocks if blocks_only else together

    def _shuffled(self, blocks_only: bool = False) -> list[list[int]]:
        found = cast("list[list[int]]", cast("Any", self._table(blocks_only).nonzero()).tolist())
        self.trials.random.shuffle(found)
        return found


def _are_blocks(pair: tuple[Choice, ...]) -> bool:
    return not any("." in choice for choice in pair)
