"""A page of the block reference, completed with pictures, links and measured costs."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import gallery
import pictures

from blockformer.reference.pages import IN_A_MODEL

ROOT = Path(__file__).parents[2]
YAML = r'^```yaml title="{}"\n(.*?)^```$'
DEFAULTS, MODEL = (re.compile(YAML.format(title), re.M | re.S) for title in ("with all defaults", IN_A_MODEL))


def completed(markdown: str, slot: str, drawn: pictures.Pictures) -> str:
    """The page of a slot with, for each block, its picture and recipes as tabs, what it goes with, and its costs."""
    head, *sections = re.split(r"^(?=## )", markdown, flags=re.M)
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
    return "\n\n".join([text.rstrip(), *_matrix(slot, name), *_costs(slot, name)]) + "\n\n"


def _tab(title: str, content: str) -> str:
    lines = "\n".join(f"    {line}".rstrip() for line in content.splitlines())
    return f'=== "{title}"\n\n{lines}\n'


def _with_links(line: re.Match[str]) -> str:
    known = gallery.groups()
    return re.sub(
        r"`(\w+)`", lambda found: f"[{found[1]}](../models/{found[1]}.md)" if found[1] in known else found[0], line[0]
    )


def _matrix(slot: str, name: str) -> Iterator[str]:
    """Links to the tables of the last full conformance run that have the block."""
    links = []
    for title, rows in _json("docs/matrix.json")["cells"].items():
        columns = {column for row in rows.values() for column in row}
        if title == slot and name in columns:
            links.append(f"[places of {slot} blocks](../matrix.md#blocks-of-slot-{slot})")
        elif slot in title.split(" x ") and name in {*rows, *columns}:
            links.append(f"[{title}](../matrix.md#{title.replace(' ', '-')})")
    if links:
        yield f"Which blocks go with it: {', '.join(links)}."


def _costs(slot: str, name: str) -> Iterator[str]:
    """What the block costs, from the results of `python -m benchmarks.blocks`."""
    found = _json("benchmarks/results/blocks.json")
    rows = [row for row in found.get("measured", []) if (row["slot"], row["block"]) == (slot, name)]
    if rows:
        row = rows[0]
        yield (
            f"Measured, two layers with it: {row['milliseconds']:.0f} ms for forward and backward of "
            f"{found['length']:,} tokens of width {found['dim']}, {row['time_ratio']:.2f} times as long as with "
            f"`{row['against']}` (noise: up to {found['noise']:.0%}); {row['kept_mib']:.1f} MiB kept for the backward "
            f"pass. {found['machine']}."
        )


@cache
def _json(path: str) -> Any:
    file = ROOT / path
    return json.loads(file.read_text()) if file.exists() else {}
