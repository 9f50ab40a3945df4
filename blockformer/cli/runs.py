"""`blockformer runs`: the runs in a folder, chosen and sorted by any key of their configuration."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blockformer.cli.parser import KeyValues, Parser, add_format

if TYPE_CHECKING:
    from blockformer.training.run_list import ListedRun

FIGURES = ("val/loss", "val/bits_per_byte", "val/accuracy")
COLUMNS = ("name", "variant", "recipe", "state", "step", *FIGURES, "when")


def main(arguments: Sequence[str]) -> int:
    """List runs. Returns 0.

    Raises:
        UserError: there is no such folder, or no run has a key that is asked for.
    """
    options = _parser().parse_args(arguments)
    from blockformer.files import as_json  # imported late: --help then needs no pydantic
    from blockformer.training.run_list import runs_in

    found = runs_in(options.root)
    for condition in options.where:
        found = _chosen(found, condition)
    if options.sort:
        found = _sorted(found, options.sort, options.reverse)
    elif options.reverse:
        found.reverse()
    columns = [*COLUMNS[:-1], *_further(options), "when"]
    rows = [_row(run, columns) for run in found]
    if options.format == "json":
        facts = [{**row, "note": run.note, "configuration": run.facts} for run, row in zip(found, rows, strict=True)]
        print(as_json(facts, indent=1))
    else:
        print("\n".join((_markdown if options.format == "markdown" else _text)(columns, rows, found)))
    return 0


def _chosen(runs: "list[ListedRun]", condition: str) -> "list[ListedRun]":
    """The runs that have a value; `KEY=none` also chooses a block of this name.

    Raises:
        UserError: the condition is no KEY=VALUE, or no run has the key.
    """
    from blockformer.errors import UserError
    from registry.merge import split_override
    from registry.strict_yaml import as_plain, parse_text
    from registry.text import shortened

    if (parts := split_override(condition)) is None:
        raise UserError(f"--where {shortened(condition)}: must have the form KEY=VALUE")
    key, text = parts
    wanted = as_plain(parse_text(text, f"--where {shortened(key)}", lines=False)) if text else ""
    values = _values(runs, key)
    return [run for run in runs if run.name in values and _is(values[run.name], wanted)]


def _is(value: Any, wanted: Any) -> bool:
    if isinstance(value, dict) and isinstance(wanted, str):
        value = value.get("type")
    return value == wanted and isinstance(value, bool) == isinstance(wanted, bool)


def _sorted(runs: "list[ListedRun]", key: str, reverse: bool) -> "list[ListedRun]":
    """By a key, from small to large; runs without it last."""
    values = {name: value for name, value in _values(runs, key).items() if isinstance(value, int | float | str)}
    having = [run for run in runs if run.name in values]
    having.sort(key=lambda run: (isinstance(values[run.name], str), values[run.name]), reverse=reverse)
    return having + [run for run in runs if run.name not in values]


def _values(runs: "list[ListedRun]", key: str) -> dict[str, Any]:
    """The value of each run that has the key.

    Raises:
        UserError: none has it.
    """
    from blockformer.errors import UserError
    from registry.errors import nearest
    from registry.text import shortened

    found: dict[str, Any] = {}
    for run in runs:
        try:
            found[run.name] = run.value(key)
        except KeyError:
            continue
    if runs and not found:
        known = dict.fromkeys(key for run in runs for key in run.keys())  # noqa: SIM118 (a method, not a mapping's)
        raise UserError(f"no run has {shortened(key)}; {nearest(key, known) or '--format json shows all keys'}")
    return found


def _further(options: Any) -> list[str]:
    """Keys that are asked for and are no column yet."""
    asked = [condition.partition("=")[0] for condition in options.where] + ([options.sort] if options.sort else [])
    return [key for key in dict.fromkeys(asked) if key not in COLUMNS]


def _row(run: "ListedRun", columns: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for column in columns:
        try:
            row[column] = run.value("recipe_hash" if column == "recipe" else column)
        except KeyError:
            row[column] = None
    return row | {"steps": run.steps, "recipe": str(row["recipe"])[:8] if row["recipe"] else None}


def _cells(columns: Sequence[str], row: dict[str, Any], run: "ListedRun") -> list[str]:
    from registry.text import as_yaml, printable, shortened

    cells: list[str] = []
    for column in columns:
        value = row[column]
        if column == "when":
            text = time.strftime("%Y-%m-%d %H:%M", time.localtime(value)) if value else ""
        elif column == "state":
            text = f"{value}: {shortened(run.note, 120)}" if run.note else value
        elif column == "step":
            text = f"{value}/{run.steps}" if run.steps else str(value or "")
        elif isinstance(value, dict):
            text = str(value.get("type", "..."))
        else:
            text = "" if value is None else f"{value:.4f}" if column in FIGURES else as_yaml(value)
        cells.append(printable(text))
    return cells


def _text(columns: Sequence[str], rows: list[dict[str, Any]], runs: "list[ListedRun]") -> list[str]:
    """A table for a terminal; damaged folders and those of no run follow it, as they have no figures."""
    if not rows:
        return ["no runs"]
    whole = [(row, run) for row, run in zip(rows, runs, strict=True) if run.facts]
    others = [_cells(("name", "state"), row, run) for row, run in zip(rows, runs, strict=True) if not run.facts]
    table = [list(columns), *(_cells(columns, row, run) for row, run in whole)] if whole else []
    kept = [place for place in range(len(columns)) if any(line[place] for line in table[1:])]
    widths = {place: max(len(line[place]) for line in table) for place in kept}
    lines = ["  ".join(line[place].ljust(widths[place]) for place in kept).rstrip() for line in table]
    return [*lines, *(f"{name}  {state}" for name, state in others)]


def _markdown(columns: Sequence[str], rows: list[dict[str, Any]], runs: "list[ListedRun]") -> list[str]:
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for row, run in zip(rows, runs, strict=True):
        cells = [cell.replace("|", "\\|") for cell in _cells(columns, row, run)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _parser() -> Parser:
    parser = Parser(
        prog="blockformer runs",
        description="List the runs in a folder, the newest first: variant, recipe (the first digits of its hash),\n"
        "state, step, the figures of the last validation, and when.",
        epilog="Keys are those of a recipe (decoder.layer.mixer.kv_heads), of facts.json (data.length, optimizer.lr,\n"
        "seed) or columns of the list:\n"
        "  blockformer runs --where decoder.layer.mixer.kv_heads=2 --sort val/loss\n"
        "A study lists its runs with --root comparisons/STUDY/runs.",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="folder that contains the runs; default: runs",
    )
    parser.add_argument(
        "--where",
        metavar="KEY=VALUE",
        action=KeyValues,
        default=[],
        help="list only runs with this value; may be repeated with other keys",
    )
    parser.add_argument("--sort", metavar="KEY", help="sort by this key, smallest first; runs without it are last")
    parser.add_argument("--reverse", action="store_true", help="reverse the order")
    add_format(parser, "text", "json", "markdown")
    return parser
