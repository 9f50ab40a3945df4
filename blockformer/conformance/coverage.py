"""The recipes of the full run: every choice, every pair of blocks, many pairs of options, and random triples."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any, Literal, cast

import torch
from torch import Tensor

from blockformer import signals
from blockformer.conformance.generate import OFTEN, Refused, Search
from blockformer.conformance.grammar import Choice, Grammar, holds_blocks
from blockformer.conformance.validate import ValidRecipe

ALONE, BLOCKS = 150, 100  # attempts for one choice, and for two blocks, before they count as refused
AHEAD = 6  # searches that are begun before it is known whether they are needed
NOT_GENERATED = "no recipe with it was generated"
How = Literal["choice", "pair", "triple"]


@dataclass(frozen=True)
class PlannedRecipe:
    """A recipe, and the choices for which it was generated."""

    how: How
    wanted: tuple[Choice, ...]
    valid: ValidRecipe


@dataclass(frozen=True)
class SearchRequest:
    """A search for a recipe; its outcome depends on nothing else, so any process may make it.

    Attributes:
        wanted: choices that the recipe shall have.
        tries: attempts with other random choices, beside a few without; None: one attempt in all.
        seed: seed of its randomness.
        never: choices that no recipe has.
    """

    wanted: tuple[Choice, ...]
    tries: int | None
    seed: str
    never: frozenset[Choice]


@dataclass(frozen=True)
class SearchOutcome:
    """The outcome of a search, as of :meth:`Search.find`, and its numbers of attempts and refusals."""

    found: ValidRecipe | Refused | None
    attempts: Counter[str]
    refusals: Counter[str]


@lru_cache(maxsize=2)
def _grammar(never: frozenset[Choice]) -> Grammar:
    return Grammar.read(never)


def run_search(request: SearchRequest) -> SearchOutcome:
    """Search for a recipe."""
    search = Search(_grammar(request.never), request.seed)
    if request.tries is None:
        found = search.attempt(request.wanted, OFTEN, Counter())
    else:
        found = search.find(request.wanted, request.tries)
    return SearchOutcome(found, search.attempts, search.refusals)


class _InProcess(Executor):
    """Calls functions at once, in this process."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class CoveragePlan:
    """Generates recipes and records which choices were together in one.

    Args:
        seed: seed of all randomness; the same seed and registry give the same recipes.
        pool: makes the searches; None: this process does.

    Attributes:
        never: choices that no valid recipe has, with the reason.
        accepted: (N, N) bool, which choices were together in a valid recipe.
        refused: pairs that were refused in every attempt, with the reason.
        attempts, refusals: of all searches, as in :class:`Search`.
    """

    def __init__(self, seed: int = 0, pool: Executor | None = None) -> None:
        self.grammar, self.seed, self.random = Grammar.read(), seed, Random(seed)
        self.pool, self.ahead = pool or _InProcess(), AHEAD if pool else 1
        self.never, self.refused = dict[Choice, str](), dict[tuple[Choice, ...], str]()
        self.attempts, self.refusals = Counter[str](), Counter[str]()
        self.accepted = torch.zeros_like(self.grammar.together)

    def singles(self) -> Iterator[PlannedRecipe]:
        """Recipes that together make every choice; choices that none could make are left out from here on."""
        for outer in (True, False):  # a block's options are not looked for in places that cannot hold the block
            chosen = [choice for choice in self.grammar.choices if holds_blocks(choice) is outer]
            for wanted, found in self._found("choice", ((choice,) for choice in chosen), ALONE):
                if isinstance(found, ValidRecipe):
                    yield self._recorded(PlannedRecipe("choice", wanted, found))
                else:
                    self.never[wanted[0]] = found.reason if found else NOT_GENERATED
        met = [number for number, choice in enumerate(self.grammar.choices) if choice not in self.never]
        self.grammar, self.accepted = Grammar.read(self.never), self.accepted[met][:, met]

    def pairs(self, count: int) -> Iterator[PlannedRecipe]:
        """Recipes for pairs of choices that were not together yet: pairs of blocks first, then all others, shuffled.

        A pair of blocks is attempted until it is accepted or counts as refused, each of the other pairs once.
        """
        for blocks_only, tries in ((True, BLOCKS), (False, None)):
            numbers = self._shuffled(blocks_only)
            pairs = ((self.grammar.choices[one], self.grammar.choices[other]) for one, other in numbers)
            for wanted, found in self._found("pair", pairs, tries) if count > 0 else ():
                if isinstance(found, ValidRecipe):
                    count -= 1
                    yield self._recorded(PlannedRecipe("pair", wanted, found))
                    if count <= 0:
                        return
                elif blocks_only:
                    self.refused[wanted] = found.reason if found else NOT_GENERATED

    def triples(self, count: int) -> Iterator[PlannedRecipe]:
        """Recipes with three random choices and few others."""

        def drawn() -> Iterator[tuple[Choice, ...]]:
            while True:
                wanted = tuple(self.random.sample(self.grammar.choices, 3))
                if self._can_be_together(wanted):
                    yield wanted

        for wanted, found in self._found("triple", drawn(), 0) if count > 0 else ():
            if isinstance(found, ValidRecipe):
                count -= 1
                yield self._recorded(PlannedRecipe("triple", wanted, found))
                if count <= 0:
                    return

    def _found(
        self, how: How, wanted: Iterable[tuple[Choice, ...]], tries: int | None
    ) -> Iterator[tuple[tuple[Choice, ...], ValidRecipe | Refused | None]]:
        """The outcomes of searches, in order. Choices and pairs that an earlier recipe has are left out.

        Some are begun early, and what turns out not to be needed is dropped; so the outcomes do not depend on when.
        """
        waiting: deque[tuple[tuple[Choice, ...], Future[SearchOutcome]]] = deque()
        source, never = iter(wanted), frozenset(self.never)
        while True:
            while len(waiting) < self.ahead and (one := next(source, None)) is not None:
                if how == "triple" or not self._is_accepted(one):
                    seed = f"{self.seed}: {how}: {' + '.join(one)}"
                    with signals.held():  # a worker that this starts leaves signals to this process
                        waiting.append((one, self.pool.submit(run_search, SearchRequest(one, tries, seed, never))))
            if not waiting:
                return
            one, future = waiting.popleft()
            if how != "triple" and self._is_accepted(one):
                future.cancel()
                continue
            made = future.result()
            self.attempts += made.attempts
            self.refusals += made.refusals
            yield one, made.found

    def _is_accepted(self, wanted: tuple[Choice, ...]) -> bool:
        numbers = [self.grammar.number[choice] for choice in wanted]
        return bool(self.accepted[numbers[0], numbers[-1]])

    def figures(self) -> dict[str, Any]:
        """Numbers of attempts, refusals and covered pairs, as plain data."""
        return {
            "attempts": dict(self.attempts),
            "refusals": dict(self.refusals.most_common()),
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

    def _shuffled(self, blocks_only: bool) -> list[list[int]]:
        found = cast("list[list[int]]", cast("Any", self._table(blocks_only).nonzero()).tolist())
        self.random.shuffle(found)
        return found


def _are_blocks(pair: tuple[Choice, ...]) -> bool:
    return not any("." in choice for choice in pair)
