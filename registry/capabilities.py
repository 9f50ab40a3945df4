"""What a block can do, declared on its class."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Place = Literal["causal", "bidirectional", "cross"]
PositionKind = Literal["rotation", "bias"]
Cut = Literal["columns", "rows", "between", "common"]
Ability = Literal["padding", "documents", "cache", "any_length", "bfloat16"]
ABILITIES: tuple[Ability, ...] = get_args(Ability)

PLACES: Mapping[Place, str] = {
    "causal": "work where a token sees only those before it",
    "bidirectional": "work where a token sees the whole text",
    "cross": "look at an encoder's output",
}


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a recipe, data and a trainer may ask of a block; what it cannot is refused before anything runs.

    Attributes:
        places: where it can stand: in a decoder, in an encoder, or where a decoder looks at an encoder's output.
        padding: tokens that a mask calls padding change nothing.
        documents: several texts in one row are kept apart.
        cache: decoding can go on from what was remembered of the tokens before.
        backends: ways to compute it that a recipe may choose from.
        positions: the kinds of attention positions that it applies: those that turn queries and keys (rotation), and
            those that add to the scores (bias).
        needs: the kinds that whatever holds it has to apply.
        any_length: texts longer than the model's ``max_length`` work.
        ordered: a mixer that knows the order of tokens without positions.
        bfloat16: it can be trained with its parameters, or what flows through it, in bfloat16.
        shards: how tensor parallelism may cut it, by the names of its own children and parameters: by columns (each
            process makes some of the outputs; of a parameter, has some) or by rows (each takes some of the inputs, and
            the results are added up). What stands between the two is applied by each to what it has; what is common
            is made whole by each, from and to what all have, and then used for its part.
    """

    places: frozenset[Place] = frozenset(PLACES)
    padding: bool = True
    documents: bool = True
    cache: bool = True
    backends: tuple[str, ...] = ()
    positions: frozenset[PositionKind] = frozenset()
    needs: frozenset[PositionKind] = frozenset()
    any_length: bool = True
    ordered: bool = False
    bfloat16: bool = True
    shards: Mapping[str, Cut] = field(default_factory=dict[str, Cut])

    def words(self) -> Iterator[str]:
        """What there is to say, a phrase each: what it cannot, and what it offers beyond the usual."""
        for place in PLACES:
            if place not in self.places:
                yield f"does not {PLACES[place]}"
        for can, phrase in (
            (self.padding, "takes no padding"),
            (self.documents, "keeps no documents apart"),
            (self.cache, "cannot be decoded from a cache"),
            (self.any_length, "takes no text longer than max_length"),
            (self.bfloat16, "cannot be trained in bfloat16"),
        ):
            if not can:
                yield phrase
        if self.ordered:
            yield "knows the order of tokens by itself"
        if self.positions:
            yield f"applies positions that act by {' or '.join(sorted(self.positions, reverse=True))}"
        if self.needs:
            yield f"acts by {' and '.join(sorted(self.needs))}"
        if self.backends:
            yield f"is computed by {', '.join(self.backends)}"
        if self.shards:
            cuts = (f"{cut} of {name}" for name, cut in self.shards.items() if cut in ("columns", "rows"))
            yield f"is cut for tensor parallelism by {', '.join(cuts)}"


class UnfitError(ValueError):
    """A block cannot do what its place asks of it.

    Args:
        message: what it does not do, beginning with a verb.
        fits: whether a block class could stand there instead.
    """

    def __init__(self, message: str, fits: Callable[[type[Any]], bool]) -> None:
        super().__init__(message)
        self.fits = fits
