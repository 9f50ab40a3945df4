"""Capabilities that a block declares on its class."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Place = Literal["causal", "bidirectional", "cross"]
PositionKind = Literal["rotation", "bias"]
Cut = Literal["columns", "rows", "between", "common"]
Ability = Literal["padding", "documents", "prefix", "cache", "any_length", "bfloat16"]
ABILITIES: tuple[Ability, ...] = get_args(Ability)

PLACES: Mapping[Place, str] = {
    "causal": "support causal mixing",
    "bidirectional": "support bidirectional mixing",
    "cross": "support cross-attention",
}


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a block supports. Recipes, data and trainers that need more are refused before anything runs.

    Attributes:
        places: sites that it supports: causal (decoder), bidirectional (encoder), cross (attends to an encoder's
            output).
        padding: padded tokens have no effect on other tokens.
        documents: several documents in one row have no effect on each other.
        prefix: at a causal site, tokens can depend on all tokens of a given prefix, also on later ones.
        cache: decoding can continue from cached states.
        backends: implementations that a recipe may choose from.
        positions: kinds of attention positions that it applies: rotation of queries and keys, or bias on scores.
        needs: for attention positions, the kinds that the surrounding mixer or stack has to apply.
        any_length: sequences longer than the model's ``max_length`` work.
        ordered: a mixer whose output depends on token order without positions.
        resizes: a mixer whose output can have another width than its input.
        bfloat16: it can be trained with parameters or activations in bfloat16.
        shards: how tensor parallelism cuts it, by the names of its own children and parameters. columns: each process
            computes some of the outputs, or holds some of a parameter. rows: each process takes some of the inputs, and
            results are summed. between: applied by each process to its own part. common: computed in full by each
            process, which then uses its own part.
    """

    places: frozenset[Place] = frozenset(PLACES)
    padding: bool = True
    documents: bool = True
    prefix: bool = True
    cache: bool = True
    backends: tuple[str, ...] = ()
    positions: frozenset[PositionKind] = frozenset()
    needs: frozenset[PositionKind] = frozenset()
    any_length: bool = True
    ordered: bool = False
    resizes: bool = False
    bfloat16: bool = True
    shards: Mapping[str, Cut] = field(default_factory=dict[str, Cut])

    def describe(self) -> Iterator[str]:
        """Phrases for what it does not support and what it supports beyond the default."""
        for place in PLACES:
            if place not in self.places:
                yield f"does not {PLACES[place]}"
        for said, phrase in (
            (not self.padding, "does not support padding"),
            (not self.documents, "does not support packed documents"),
            (not self.prefix, "does not support a bidirectional prefix"),
            (not self.cache, "does not support decoding with a cache"),
            (not self.any_length, "does not support sequences longer than max_length"),
            (not self.bfloat16, "does not support training in bfloat16"),
            (self.ordered, "depends on token order without positions"),
            (self.resizes, "can write another width than it reads"),
        ):
            if said:
                yield phrase
        if self.positions:
            yield f"supports attention positions by {' or '.join(sorted(self.positions, reverse=True))}"
        if self.needs:
            yield f"needs {' and '.join(sorted(self.needs))} applied"
        if self.backends:
            yield f"has the backends {', '.join(self.backends)}"
        if self.shards:
            names = {cut: [name for name, own in self.shards.items() if own == cut] for cut in ("columns", "rows")}
            cuts = (f"{cut} of {', '.join(of)}" for cut, of in names.items() if of)
            yield f"supports tensor parallelism by {' and '.join(cuts)}"


class UnfitError(ValueError):
    """A block does not support its site.

    Args:
        message: what it does not support, beginning with a verb.
        fits: whether a block class could be used instead.
    """

    def __init__(self, message: str, fits: Callable[[type[Any]], bool]) -> None:
        super().__init__(message)
        self.fits = fits
