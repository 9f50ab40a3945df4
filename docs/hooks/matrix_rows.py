"""What a block goes with: its rows of the tables of docs/matrix.json, as one small table."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from blockformer.conformance.matrix import KINDS, Table, tables

Cell = Mapping[str, str | None]
"""By kind of model: None if valid, or the reason of refusal."""
MATRIX = "../matrix.md"
NEWER = f"Which blocks go with it has not been tried yet: it is newer than [the tables]({MATRIX})."
NEVER = (
    f"It stands in no place where blocks of other slots were tried with it, so [the tables]({MATRIX}) do not have it."
)
LETTERS = ", ".join(f"**{letter}** `{kind}`" for kind, letter in KINDS.items())
LEGEND = f"Which blocks go with it, tried in a model of each kind: {LETTERS}. The links lead to the reasons."
HEAD = "| with | valid | refused |\n| --- | --- | --- |"


def rows_of(slot: str, name: str, found: Mapping[str, Any]) -> str:
    """A table of all that was tried with a block, or one sentence where nothing was.

    Args:
        slot: of the block.
        name: of the block.
        found: the content of docs/matrix.json.
    """
    rows = [
        row for table in tables() for row in _of_table(table, f"{slot}/{name}", found["cells"].get(table.title, {}))
    ]
    if rows:
        return f"{LEGEND}\n\n" + "\n".join([HEAD, *rows])
    known = any(f"{slot}/{name}" in {*table.rows.values(), *table.columns.values()} for table in tables())
    return NEWER if known else NEVER


def _of_table(table: Table, block: str, cells: Mapping[str, Mapping[str, Cell]]) -> Iterator[str]:
    """The rows and the column of one table that are about a block."""
    first, _, second = table.title.partition(" x ")
    anchor = f"blocks-of-slot-{first}" if table.nested else table.title.replace(" ", "-")
    for label, choice in table.rows.items():
        if label in cells and (choice == block or choice.startswith(f"{block}.")):
            what = f"`{label.partition('.')[2]}`" if table.nested else second
            yield _row(f"[{what}]({MATRIX}#{anchor})", cells[label])
    for label, choice in table.columns.items():
        column = {row: cells[row][label] for row in table.rows if label in cells.get(row, {})}
        if choice == block and column:
            yield _row(f"[{'its places' if table.nested else first}]({MATRIX}#{anchor})", column)


def _row(what: str, cells: Mapping[str, Cell]) -> str:
    valid = {other: [kind for kind, why in cell.items() if why is None] for other, cell in cells.items()}
    refused = {other: [kind for kind, why in cell.items() if why is not None] for other, cell in cells.items()}
    return f"| {what} | {_listed(valid)} | {_listed(refused, every='all')} |"


def _listed(kinds_of: Mapping[str, Sequence[str]], *, every: str = "") -> str:
    """Names by the kinds of model, as ``**D** one, other``; a word in place of all names, if it is given."""
    groups: dict[str, list[str]] = {}
    for other, kinds in kinds_of.items():
        if kinds:
            groups.setdefault("".join(KINDS[kind] for kind in kinds), []).append(f"`{other}`")
    return "; ".join(
        f"**{kinds}** {every if every and len(names) == len(kinds_of) > 1 else ', '.join(names)}"
        for kinds, names in groups.items()
    )
