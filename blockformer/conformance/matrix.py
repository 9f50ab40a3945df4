"""Which blocks go with which: tried out, kept as JSON beside the figures of the last full run, and shown as a page."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from blockformer.conformance.admitting import Admitted
from blockformer.conformance.choices import Choice, Grammar, blocks_of
from blockformer.conformance.trying import Refused, Trials
from registry import entries, slots

KINDS: Mapping[str, str] = {"decoder_only": "D", "encoder_only": "E", "encoder_decoder": "T"}
BESIDE = (
    ("mixer", "layer"),
    ("mixer", "residual"),
    ("mixer", "feedforward"),
    ("mixer", "input_positions"),
    ("mixer", "norm"),
    ("feedforward", "layer"),
    ("feedforward", "residual"),
    ("residual", "layer"),
    ("norm", "residual"),
    ("embedding", "head"),
    ("head", "transform"),
    ("router", "mixer"),
    ("init", "residual"),
    ("init", "model"),
    ("stack", "model"),
)
TRIES = 120  # contexts that a cell is tried in before it counts as refused


@dataclass(frozen=True)
class Table:
    """Rows and columns of choices, each with what it is called."""

    title: str
    rows: Mapping[str, Choice]
    columns: Mapping[str, Choice]
    nested: bool

    def wishes(self, row: str, column: str) -> tuple[Choice, ...]:
        """What a recipe has to say to stand in a cell."""
        return (f"{self.rows[row]}: {column}",) if self.nested else (self.rows[row], self.columns[column])


def tables() -> Iterator[Table]:
    """All tables of the page."""
    for slot in slots():
        columns = {name: f"{slot}/{name}" for name in entries(slot)}
        if rows := dict(_openings(slot)):
            yield Table(slot, rows, columns, nested=True)
    stack = {f"{name}, shared": f"stack/layers.positions: {name}" for name in entries("attention_positions")}
    yield Table("mixer x stack positions", _named("mixer"), stack, nested=False)
    for one, other in BESIDE:
        yield Table(f"{one} x {other}", _named(one), _named(other), nested=False)


def probed(seed: int = 0) -> dict[str, Any]:
    """Try every cell in every kind of model: ``{table: {row: {column: {kind: None or why it is refused}}}}``."""
    trials = Trials(Grammar.read(), seed)
    return {
        table.title: {
            row: {column: _cell(trials, table.wishes(row, column)) for column in table.columns} for row in table.rows
        }
        for table in tables()
    }


def _openings(slot: str) -> Iterator[tuple[str, Choice]]:
    for owner in slots():
        for name, entry in entries(owner).items():
            for parameter in entry.parameters.values():
                if parameter.slot == slot and blocks_of(parameter) and owner != "model":
                    yield f"{name}.{parameter.name}", f"{owner}/{name}.{parameter.name}"


def _named(slot: str) -> dict[str, Choice]:
    return {name: f"{slot}/{name}" for name in entries(slot)}


def _cell(trials: Trials, wishes: tuple[Choice, ...]) -> dict[str, str | None]:
    """For each kind of model in which this can be said at all: None if it is accepted, or why not."""
    found: dict[str, str | None] = {}
    for kind in KINDS:
        outcome = trials.find(wishes, TRIES, model=kind, bare=True)
        if isinstance(outcome, Admitted):
            found[kind] = None
        elif isinstance(outcome, Refused):
            found[kind] = outcome.reason
    return found
