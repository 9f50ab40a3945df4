"""docs/matrix.md is generated from docs/matrix.json, and both cover the registered blocks."""

import json
from typing import Any

import pytest

from blockformer.conformance.grammar import generated_slots
from blockformer.conformance.matrix import KINDS, page, tables
from registry import entries
from tests.docs.snippets import ROOT

FOUND: dict[str, Any] = json.loads((ROOT / "docs" / "matrix.json").read_text())
PAGE = (ROOT / "docs" / "matrix.md").read_text()


def test_the_page_is_made_from_what_was_found() -> None:
    assert page(FOUND) == PAGE, "run `make conformance`"


@pytest.mark.parametrize("slot", generated_slots())
def test_the_page_names_every_block(slot: str) -> None:
    missing = [name for name in entries(slot) if f"`{name}`" not in PAGE]
    ours = [name for name in missing if entries(slot)[name].block.__module__.startswith("blocks.")]
    assert not ours, f"not on the page; run `make conformance`: {ours}"


def test_every_cell_was_tried() -> None:
    for table in tables():
        cells = FOUND["cells"][table.title]
        assert set(table.rows) <= set(cells), f"run `make conformance`: {table.title}"
        assert all(set(table.columns) <= set(row) for row in cells.values())
        assert all(set(cell) <= set(KINDS) for row in cells.values() for cell in row.values())


def test_the_last_full_run_found_nothing() -> None:
    run = FOUND["run"]
    assert run["failures"] == 0
    assert run["recipes"] == run["count"] >= 2000

    assert set(map(len, run["never"].values())) - {0}, "a refusal without a reason"
