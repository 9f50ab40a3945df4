"""docs/matrix.md: which blocks work together, and the figures of the last full run."""

import os
import platform
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from blockformer import signals
from blockformer.conformance.full_run import (
    Row,
    Settings,
    append_row,
    fingerprint,
    read_rows,
    worker_pool,
    write_rows,
)
from blockformer.conformance.generate import Refused, Search
from blockformer.conformance.grammar import Choice, Grammar, blocks_of, generated_slots
from blockformer.conformance.recipe_checks import (
    ALWAYS,
    LEFT_OUT,
    OFTEN,
    SELDOM,
    USUAL_SIZES,
    WITHOUT_CHOICES,
    WITHOUT_NESTING,
    every,
)
from blockformer.conformance.validate import ValidRecipe
from blockformer.files import as_json, write_text
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
CELLS = ("code", "table", "row", "cells")
TRIES = 120  # attempts for a cell before it counts as refused


@dataclass(frozen=True)
class Table:
    """A table of the page: its rows and columns, each with a label and a choice."""

    title: str
    rows: Mapping[str, Choice]
    columns: Mapping[str, Choice]
    nested: bool

    def wanted(self, row: str, column: str) -> tuple[Choice, ...]:
        """The choices that a recipe for a cell has to make."""
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


def probe(settings: Settings) -> dict[str, Any]:
    """Try every cell in every kind of model, in several processes; an interrupted run resumes from its folder.

    Returns:
        ``{table: {row: {column: {kind: None or the reason of refusal}}}}``.
    """
    path, key = settings.folder / "cells.jsonl", {"code": fingerprint()}
    known = {(row["table"], row["row"]): row["cells"] for row in read_rows(path, CELLS) if row["code"] == key["code"]}
    write_rows(path, ({"table": table, "row": row, "cells": cells} | key for (table, row), cells in known.items()))
    wanted = [(table.title, row) for table in tables() for row in table.rows]
    with worker_pool(settings.processes) as pool:
        with signals.held():  # the workers that this starts leave signals to this process
            running = {pool.submit(_probed_row, *names): names for names in wanted if names not in known}
        for number, done in enumerate(as_completed(running), 1):
            known[running[done]] = done.result()
            append_row(path, dict(zip(("table", "row"), running[done], strict=True)) | {"cells": done.result()} | key)
            if number % 50 == 0:
                print(f"{number} of {len(running)} rows of the tables tried", file=sys.stderr)
    return {table.title: {row: known[table.title, row] for row in table.rows} for table in tables()}


def _probed_row(title: str, row: str) -> dict[str, dict[str, str | None]]:
    """The cells of one row, in a worker process."""
    search = Search(Grammar.read(), f"{title}, {row}")
    table = next(table for table in tables() if table.title == title)
    return {column: _probed_cell(search, table.wanted(row, column)) for column in table.columns}


def _openings(slot: str) -> Iterator[tuple[str, Choice]]:
    for owner in generated_slots():
        for name, entry in entries(owner).items():
            for parameter in entry.parameters.values():
                if parameter.slot == slot and blocks_of(parameter) and owner != "model":
                    yield f"{name}.{parameter.name}", f"{owner}/{name}.{parameter.name}"


def _named(slot: str) -> dict[str, Choice]:
    return {name: f"{slot}/{name}" for name in entries(slot)}


def _probed_cell(search: Search, wanted: tuple[Choice, ...]) -> dict[str, str | None]:
    """For each kind of model that has a place for the choices: None if valid, or the reason of refusal."""
    found: dict[str, str | None] = {}
    for kind in KINDS:
        outcome = search.find(wanted, TRIES, model=kind, bare=True)
        if isinstance(outcome, ValidRecipe):
            found[kind] = None
        elif isinstance(outcome, Refused):
            found[kind] = outcome.reason
    return found


INTRO = """# Which blocks go with which

<!-- Generated by `make conformance`; not for editing by hand. -->

Every block declares its capabilities. A recipe that combines blocks that do not fit is refused before anything runs,
with the reason and the alternatives. The full run generates recipes from the registry, writes each as YAML, and runs
the checks of a whole model on every valid one.

`make conformance` repeats the run; `make test` includes a fixed sample of it.
"""
LEGEND = """## The tables

Each cell was tried in every kind of model that has a place for it, alone and with other choices. **D**: valid in a
`decoder_only` model, **E**: in an `encoder_only`, **T**: in an `encoder_decoder`; a number is the reason why the others
refuse it. An empty cell: no recipe has a place for it. The two blocks of a cell are in one recipe, and in one layer
where both are parts of a layer.
"""


def write_matrix(path: Path, settings: Settings, figures: Row, outcomes: Sequence[Row]) -> None:
    """Write the figures of a full run and the cells to ``path``, a ``.json``, and the page next to it."""
    passed = Counter(name for row in outcomes for name in row["passed"])
    others = Counter(name for row in outcomes for name in row["not_applicable"])
    run = {key: value for key, value in figures.items() if key != "code"}
    run |= {
        "recipes": len(outcomes),
        "checks": {name: {"passed": passed[name], "not_applicable": others[name]} for name in sorted(passed | others)},
        "failures": sum(row["failure"] is not None for row in outcomes),
        "cpu_seconds": round(sum(row["seconds"] for row in outcomes)),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
    }
    found = {"run": run, "cells": probe(settings)}
    write_text(path, as_json(found, indent=1) + "\n")
    write_text(path.with_suffix(".md"), page(found))


def page(found: Mapping[str, Any]) -> str:
    """The page in Markdown.

    Args:
        found: what :func:`write_matrix` stores. Blocks that were registered since are left out.
    """
    reasons: dict[str, int] = {}
    tried = [(table, found["cells"][table.title]) for table in tables() if table.title in found["cells"]]
    shown = [part for table, cells in tried for part in _table(table, cells, reasons)]
    notes = [f"{number}. {_escaped(why)}" for why, number in reasons.items()]
    parts = [
        INTRO,
        *_run(found["run"]),
        *_checks(found["run"]["checks"]),
        LEGEND,
        *shown,
        "## Reasons of refusal\n",
        "\n".join(notes),
        "",
        *_refused(found["run"]),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _run(run: Mapping[str, Any]) -> Iterator[str]:
    blocks, pairs, attempts = run["block_pairs"], run["all_pairs"], run["attempts"]
    passed, not_applicable = (sum(c[key] for c in run["checks"].values()) for key in ("passed", "not_applicable"))
    yield "## The last full run\n"
    yield "| | |\n| --- | ---: |"
    rows = (
        ("valid recipes checked", run["recipes"]),
        ("of these failed", run["failures"]),
        ("checks passed", passed),
        ("checks not applicable: the recipe has nothing for them to test", not_applicable),
        ("recipes generated", attempts["generated"]),
        ("of these refused as generated, with a reason", attempts["refused"]),
        ("pairs of blocks that a recipe could contain", blocks["possible"]),
        ("of these valid together", blocks["accepted"]),
        ("of these refused in every attempt", blocks["refused"]),
        ("pairs of any two choices (blocks and options)", pairs["possible"]),
        ("of these valid together", pairs["accepted"]),
    )
    for what, count in rows:
        if count or not what.startswith("checks"):
            yield f"| {what} | {count:,} |"
    yield f"\n`blockformer conformance --count {run['count']} --seed {run['seed']}` on {run['machine']}:"
    yield f"{run['cpu_seconds'] / 60:.0f} minutes of CPU time for the checks.\n"


def _checks(counts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Which checks run on which recipes, and how often each passed or did not apply."""
    yield "## Which checks run\n"
    yield f"On every recipe: {_names(ALWAYS)}.\n"
    yield f"On one recipe in {OFTEN}: all other checks of a whole model, except the following.\n"
    for number in sorted(set(SELDOM.values())):
        names = _names(name for name, every_ in SELDOM.items() if every_ == number)
        yield f"On one recipe in {number}, because they are slow: {names}.\n"
    yield "Only on recipes in which no number is set to 1, 2 or 3:\n\n| check | because |\n| --- | --- |"
    yield from (f"| `{name}` | {why} |" for name, why in USUAL_SIZES.items())
    yield "\nNot where there are routers or key selectors, as rounding changes what they choose:"
    yield f"{_names(WITHOUT_CHOICES)}."
    yield "Not where a residual is nested in two others, as such branches are lost in rounding:"
    yield f"{_names(WITHOUT_NESTING)}."
    yield "None apply to a recipe without a norm whose values grow beyond what float64 holds."
    yield "\nOnly on the models and recipes of the project:\n\n| check | because |\n| --- | --- |"
    yield from (f"| `{name}` | {why} |" for name, why in LEFT_OUT.items())
    yield ""
    if counts:
        yield "| check | one recipe in | passed | not applicable |\n| --- | ---: | ---: | ---: |"
        for name, count in counts.items():
            yield f"| `{name}` | {every(name)} | {count['passed']:,} | {count['not_applicable']:,} |"
        yield ""


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _refused(run: Mapping[str, Any]) -> Iterator[str]:
    """What was refused in the full run, and how often for which reason."""
    for title, given in (
        ("Blocks that were never valid together", run["refused_blocks"]),
        ("Choices that were never valid", run["never"]),
    ):
        if not given:
            continue
        yield f"## {title}\n"
        yield "Refused in every attempt; a few may have needed more attempts.\n"
        yield "| | a reason |\n| --- | --- |"
        yield from (f"| `{what}` | {_escaped(why)} |" for what, why in sorted(given.items()))
        yield ""
    yield "## Why generated recipes were refused\n"
    yield "A recipe can have several reasons; numbers and paths are left out.\n"
    yield "| reason | recipes |\n| --- | ---: |"
    yield from (f"| {_escaped(why)} | {count:,} |" for why, count in run["refusals"].items())
    yield ""


def _table(table: Table, cells: Mapping[str, Any], reasons: dict[str, int]) -> Iterator[str]:
    title = f"Blocks of slot {table.title}" if table.nested else table.title
    rows = [row for row in table.rows if row in cells]
    columns = [column for column in table.columns if all(column in cells[row] for row in rows)]
    yield f"### {title}\n"
    yield f"| | {' | '.join(f'`{column}`' for column in columns)} |"
    yield f"| --- |{' --- |' * len(columns)}"
    for row in rows:
        shown = (_cell(cells[row][column], reasons) for column in columns)
        yield f"| `{row}` | {' | '.join(shown)} |"
    yield ""


def _cell(cell: Mapping[str, str | None], reasons: dict[str, int]) -> str:
    accepted = "".join(letter for kind, letter in KINDS.items() if kind in cell and cell[kind] is None)
    given = dict.fromkeys(why for why in cell.values() if why is not None)
    numbers = ",".join(str(reasons.setdefault(why, len(reasons) + 1)) for why in given)
    parts = (f"**{accepted}**" if accepted else "", f"<sup>{numbers}</sup>" if numbers else "")
    return " ".join(part for part in parts if part)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
