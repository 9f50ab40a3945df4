"""Whether some recipe says all of a few things: looked for in several contexts, drawn at random."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from blockformer.conformance.admitting import IDLE, Admitted, mended
from blockformer.conformance.choices import Choice, Grammar
from blockformer.conformance.drawing import OFTEN, Drawer, ImpossibleError

BARE = 3  # times that nothing is said but what is wished: a wish may have several places
UNBUILT = "it is not built there"


@dataclass(frozen=True)
class Refused:
    """Why no context was found."""

    reason: str


class Trials:
    """Draws recipes that are to say something, and takes them to the front door.

    Args:
        grammar: what there is to say.
        seed: of all chance.

    Attributes:
        attempts: how many recipes were ``drawn``, and how many of them, as they were drawn, ``refused``.
        refusals: how often each reason was given.
    """

    def __init__(self, grammar: Grammar, seed: int) -> None:
        self.grammar, self.random = grammar, Random(seed)
        self.attempts, self.refusals = Counter[str](), Counter[str]()

    def find(
        self, wishes: Sequence[Choice], tries: int, *, model: str | None = None, bare: bool = False
    ) -> Admitted | Refused | None:
        """A recipe that says all of ``wishes``: ``tries`` times among much else, and a few times with nothing else.

        Args:
            wishes: what it is to say.
            tries: how many contexts to try.
            model: the kind of model, if it matters.
            bare: try with nothing else first, not last.

        Returns:
            The recipe, or why all were refused, or None if none could even be drawn.
        """
        reasons, rich, plain = Counter[str](), [OFTEN] * tries, [0.0] * (BARE * 8 if bare else BARE)
        for often in plain + rich if bare else rich + plain:
            if found := self.once(wishes, often, reasons, model):
                return found
        names = [wish.partition(":")[2].strip() or wish.partition("/")[2] for wish in wishes]
        told = sorted(
            reasons, key=lambda why: (why in (UNBUILT, IDLE), -sum(f"'{n}'" in why for n in names), -reasons[why])
        )
        return Refused(told[0]) if told else None

    def once(
        self, wishes: Sequence[Choice], often: float, reasons: "Counter[str]", model: str | None = None
    ) -> Admitted | None:
        """A recipe that says all of ``wishes``, if the one that is drawn now does; why not, in ``reasons``."""
        try:
            tree = Drawer(self.grammar, self.random, often).recipe(wishes, model)
        except ImpossibleError:
            return None
        given = list[str]()
        found = mended(tree, given)
        self.attempts["drawn"] += 1
        self.attempts["refused"] += bool(given)
        self.refusals.update(set(given))
        if found is not None and found.said.issuperset(wishes):
            return found
        reasons.update(given or [UNBUILT])
        return None
