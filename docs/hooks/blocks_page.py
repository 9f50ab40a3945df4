"""A page of the block reference, completed with pictures, links and measured costs."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import gallery
import matrix_rows
import pictures

from blockformer.reference.pages import IN_A_MODEL

ROOT = Path(__file__).parents[2]
YAML = r'^```yaml title="{}"\n(.*?)^```$'
DEFAULTS, MODEL = (re.compile(YAML.format(title), re.M | re.S) for title in ("with all defaults", IN_A_MODEL))
COSTS = "benchmarks/results/blocks.json"
TABLE = re.compile(r"(?:^\|.*\n)+", re.M)


def completed(markdown: str, slot: str, drawn: pictures.Pictures) -> str:
    """The page of a slot with, for each block, its picture and recipes as tabs, what it goes with, and its cost."""
    head, *sections = re.split(r"^(?=## )", markdown, flags=re.M)
    if slot not in _measured():
        head += (
            f"What these cost is not measured: `python -m benchmarks.blocks` compares blocks of the slots "
            f"{', '.join(sorted(_measured()))}.\n\n"
        )
    return head + "".join(_section(section, slot, drawn) for section in sections)


def _section(section: str, slot: str, drawn: pictures.Pictures) -> str:
    name = section.partition("\n")[0].removeprefix("## ").strip()
    model, defaults = MODEL.search(section), DEFAULTS.search(section)
    if not model or not defaults:
        return section
    tabs = [
        ("Diagram", f'<div class="picture" markdown="span">{drawn.block(slot, name, model[1])}</div>'),
        ("In a model", f"```yaml\n{model[1]}```"),
        ("All defaults", f"```yaml\n{defaults[1]}```"),
    ]
    text = section.replace(model[0], "").replace(defaults[0], "\n".join(_tab(*tab) for tab in tabs))
    text = re.sub(r"^Published models: .*$", _with_links, text, flags=re.M)
    text = TABLE.sub('<div class="parameters" markdown>\n\n\\g<0>\n</div>\n', text)
    rows = matrix_rows.rows_of(slot, name, _json("docs/matrix.json"))
    return "\n\n".join(filter(None, [text.rstrip(), rows, _cost(slot, name)])) + "\n\n"


def _tab(title: str, content: str) -> str:
    lines = "\n".join(f"    {line}".rstrip() for line in content.splitlines())
    return f'=== "{title}"\n\n{lines}\n'


def _with_links(line: re.Match[str]) -> str:
    known = gallery.groups()
    return re.sub(
        r"`(\w+)`", lambda found: f"[{found[1]}](../models/{found[1]}.md)" if found[1] in known else found[0], line[0]
    )


def _cost(slot: str, name: str) -> str:
    """What the block costs; empty if no block of its slot is measured."""
    if not (rows := _measured().get(slot)):
        return ""
    if name not in rows:
        return "Its cost is not measured: it is not in the results of `python -m benchmarks.blocks`."
    found, row = _json(COSTS), rows[name]
    ratio = f", {row['time_ratio']:.2f} times as long as with `{row['against']}` (noise: up to {found['noise']:.0%})"
    return (
        f"Measured, two layers with it: {row['milliseconds']:.0f} ms for forward and backward of {found['length']:,} "
        f"tokens of width {found['dim']}{'' if name == row['against'] else ratio}; {row['kept_mib']:.1f} MiB kept for "
        f"the backward pass. {found['machine']}."
    )


def _measured() -> dict[str, dict[str, Any]]:
    """The results of `python -m benchmarks.blocks` by slot and block."""
    found: dict[str, dict[str, Any]] = {}
    for row in _json(COSTS)["measured"]:
        found.setdefault(row["slot"], {})[row["block"]] = row
    return found


@cache
def _json(path: str) -> Any:
    return json.loads((ROOT / path).read_text())
