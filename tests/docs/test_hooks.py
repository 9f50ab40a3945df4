"""What the site's build adds to pages: tables of what goes with a block, costs, figures, and the language of a page."""

import importlib.util
import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import registry
from blockformer.conformance.matrix import KINDS, tables
from tests.docs.snippets import ROOT

HOOKS = ROOT / "docs" / "hooks"
MATRIX: dict[str, Any] = json.loads((ROOT / "docs" / "matrix.json").read_text())
COSTS: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / "blocks.json").read_text())
EVERY = [(slot, name) for slot in registry.slots() for name in registry.entries(slot)]


@pytest.fixture(scope="module")
def hooks() -> Iterator[ModuleType]:
    """The module that MkDocs loads, which imports those beside it by their names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HOOKS))
        spec = importlib.util.spec_from_file_location("site_hooks", HOOKS / "site.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
        for path in HOOKS.glob("*.py"):
            if path.stem != "site":
                sys.modules.pop(path.stem, None)


def tried(slot: str, name: str) -> list[tuple[str, dict[str, str | None]]]:
    """All cells of the matrix that are about a block, each with the label of the other."""
    found: list[tuple[str, dict[str, str | None]]] = []
    for table in tables():
        for row, columns in MATRIX["cells"].get(table.title, {}).items():
            for column, cell in columns.items():
                own = table.rows[row]
                if own == f"{slot}/{name}" or own.startswith(f"{slot}/{name}."):
                    found.append((column, cell))
                if table.columns[column] == f"{slot}/{name}":
                    found.append((row, cell))
    return found


@pytest.mark.parametrize(("slot", "name"), EVERY, ids=[f"{slot}/{name}" for slot, name in EVERY])
def test_a_block_shows_all_that_was_tried_with_it(hooks: ModuleType, slot: str, name: str) -> None:
    shown = import_module("matrix_rows").rows_of(slot, name, MATRIX)
    cells = tried(slot, name)
    assert ("| with | valid | refused |" in shown) == bool(cells)
    rows = [line.split(" | ") for line in shown.splitlines() if line.startswith("| [")]
    valid = [(one, kinds) for row in rows for kinds, names in groups(row[1]) for one in names]
    assert sorted(valid) == sorted((other, kinds) for other, cell in cells if (kinds := letters(cell, valid=True)))
    refused = {kinds for row in rows for kinds, _ in groups(row[2])}
    assert refused == {kinds for _, cell in cells if (kinds := letters(cell, valid=False))}


def letters(cell: dict[str, str | None], *, valid: bool) -> str:
    return "".join(KINDS[kind] for kind, why in cell.items() if (why is None) == valid)


def groups(text: str) -> list[tuple[str, list[str]]]:
    """The kinds of model and the names of each part of a shown cell."""
    parts = re.findall(r"\*\*([DET]+)\*\* (all|`[^`]+`(?:, `[^`]+`)*)", text)
    return [(kinds, re.findall("`([^`]+)`", names)) for kinds, names in parts]


def test_a_block_is_not_shown_as_going_with_what_refused_it(hooks: ModuleType) -> None:
    cells = {
        "mixer x layer": {
            "fourier": {"parallel": {"decoder_only": "no", "encoder_only": None}, "sequential": {"decoder_only": "no"}}
        }
    }
    shown = import_module("matrix_rows").rows_of("mixer", "fourier", {"cells": cells})
    assert shown.splitlines()[-1] == "| [layer](../matrix.md#mixer-x-layer) | **E** `parallel` | **D** all |"
    assert (
        import_module("matrix_rows")
        .rows_of("mixer", "attention", {"cells": cells})
        .endswith("newer than [the tables](../matrix.md).")
    )
    assert "no place" in import_module("matrix_rows").rows_of("generator", "encoder", {"cells": cells})


@pytest.mark.parametrize("slot", [*registry.slots(), *registry.option_slots()])
def test_the_page_of_a_slot_says_what_each_block_costs_or_that_it_is_not_measured(hooks: ModuleType, slot: str) -> None:
    pictures = SimpleNamespace(block=lambda slot, name, recipe: "a picture")
    page = import_module("blocks_page").completed((ROOT / "docs" / "blocks" / f"{slot}.md").read_text(), slot, pictures)
    measured = {row["block"]: row for row in COSTS["measured"] if row["slot"] == slot}
    assert ("What these cost is not measured" in page) == (not measured)
    for section in re.split(r"^## ", page, flags=re.M)[1:] if measured else ():
        row = measured.get(section.partition("\n")[0])
        said = f"Measured, two layers with it: {row['milliseconds']:.0f} ms" if row else "Its cost is not measured"
        assert said in section


def test_costs_are_those_of_registered_blocks() -> None:
    assert {(row["slot"], row["block"]) for row in COSTS["measured"]} <= set(EVERY)


def test_heads_of_the_trained_model_attend_to_different_things(hooks: ModuleType) -> None:
    trained = import_module("trained")
    explanation, words = trained.explained(), trained.SENTENCE.split()
    eats, cat = words.index("eats"), words.index("cat")
    weights = explanation.value("decoder.layers.0.mixer", "weights")[:, eats]
    assert weights[:, cat].max() > 0.8
    assert (weights[:, cat] < 0.3).sum() == 2
    assert weights[:, words.index("dog")].max() < 0.2
    guess, share = next(one for one in explanation.predictions if one.at == eats).best[0]
    assert guess.text == "fish"
    assert share > 0.8


@pytest.mark.parametrize("name", ["positions", "saturation", "attended", "visibility"])
def test_the_labels_of_a_figure_are_in_the_language_of_the_page(hooks: ModuleType, name: str) -> None:
    figures = import_module("figures")
    assert name in figures.FIGURES
    for language, others in (("en", figures.CHINESE.values()), ("zh", figures.CHINESE)):
        labels = [element.text for element in ET.fromstring(figures.figure(name, language)).iter() if element.text]
        assert not set(labels) & set(others)


def test_the_theme_speaks_the_language_of_the_page(hooks: ModuleType) -> None:
    config = SimpleNamespace(theme={"language": "en"})
    for uri, language in (("zh/tour.md", "zh"), ("tour/index.md", "en")):
        hooks.on_page_context({}, SimpleNamespace(file=SimpleNamespace(src_uri=uri)), config, None)
        assert config.theme["language"] == language


def test_the_end_of_a_line_is_no_space_between_chinese_words(hooks: ModuleType) -> None:
    assert (
        hooks.BROKEN.sub("", "每个词元，\n**归一化**\n一个 dim\n的数\n\n# 头")
        == "每个词元，**归一化**\n一个 dim\n的数\n\n# 头"
    )


def test_a_file_of_the_repository_is_quoted_whole(hooks: ModuleType) -> None:
    quoted = hooks.QUOTED.sub(hooks._quoted, "<!-- file: studies/feedforward.yaml -->")
    lines = [line.removeprefix("    ") for line in quoted.splitlines()]
    assert "\n".join(lines[3:-1]) == (ROOT / "studies" / "feedforward.yaml").read_text().rstrip()
