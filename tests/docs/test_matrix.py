"""docs/matrix.md is generated from docs/matrix.json, and both have registered blocks only."""

import json
from copy import deepcopy
from typing import Any

from blockformer.conformance.matrix import KINDS, page, tables
from blockformer.conformance.recipe_checks import ALWAYS, USUAL_SIZES
from tests.docs.snippets import ROOT

FOUND: dict[str, Any] = json.loads((ROOT / "docs" / "matrix.json").read_text())
PAGE = (ROOT / "docs" / "matrix.md").read_text()


def test_the_page_is_made_from_what_was_found() -> None:
    assert page(FOUND) == PAGE, "run `make conformance`"


def test_the_page_has_no_unknown_block_and_no_empty_cell() -> None:
    """A block that is newer than the last full run is on no table; one that is on a table has all its cells."""
    known = {table.title: table for table in tables()}
    for title, rows in FOUND["cells"].items():
        assert rows.keys() <= known[title].rows.keys(), f"run `make conformance`: {title}"
        columns = next(iter(rows.values())).keys()
        assert columns <= known[title].columns.keys(), f"run `make conformance`: {title}"
        assert all(row.keys() == columns for row in rows.values())
        assert all(set(cell) <= set(KINDS) for row in rows.values() for cell in row.values())


def test_a_block_newer_than_the_last_full_run_is_left_out() -> None:
    before = deepcopy(FOUND)
    del before["cells"]["head x transform"]
    del before["cells"]["norm x residual"]["rms"]
    for row in before["cells"]["mixer x norm"].values():
        del row["rms"]
    shown = page(before)
    assert "### head x transform" in PAGE
    assert "### head x transform" not in shown
    assert "`rms`" in section(PAGE, "norm x residual")
    assert "`rms`" not in section(shown, "norm x residual") + section(shown, "mixer x norm")
    assert section(shown, "norm x residual").count("| `layer` |") == 1


def section(text: str, title: str) -> str:
    return text.partition(f"### {title}\n")[2].partition("\n#")[0]


def test_the_last_full_run_found_nothing() -> None:
    run = FOUND["run"]
    assert run["failures"] == 0
    assert run["recipes"] == run["count"] >= 2000

    assert set(map(len, run["never"].values())) - {0}, "a refusal without a reason"


def test_the_readme_counts_the_checks_as_they_are() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f" {len(ALWAYS)} checks (causality" in text
    assert (
        f" {len(USUAL_SIZES)} checks of precision and dependencies run only where no number is set to 1, 2 or 3" in text
    )
