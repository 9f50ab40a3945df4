"""The page: its words, its size, and what it does in a browser."""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from blockformer.explanation import Limits, explain, words
from blockformer.explanation.page import FOLDER, SCRIPTS, as_html, write_page
from blockformer.explanation.words import LANGUAGES, captions, tables
from registry import RecipeError, entries, slots
from tests.studies.browser import CHROMIUM, Tab, browser

RECIPES = ("tiny_decoder", "tiny_encoder", "tiny_encoder_decoder", "tiny_experts", "tiny_hybrid")
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium, such as Debian's package of that name")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    hybrid, decoder = explain("tiny_hybrid", "cat eats <b>fish</b>"), explain("tiny_decoder", "cat eats <b>fish</b>")
    write_page(folder / "hybrid.html", hybrid)
    write_page(folder / "experts.html", explain("tiny_experts", "cat eats fish"))
    write_page(folder / "encoder.html", explain("tiny_encoder", "c_t"), language="zh")
    write_page(folder / "translation.html", explain("tiny_encoder_decoder", "Katze", source="cat"), language="zh")
    write_page(folder / "compared.html", decoder, hybrid)
    write_page(folder / "long.html", explain("tiny_decoder", "cat eats fish", limits=Limits(tokens=6)))
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with browser() as opened:
        yield opened


def test_every_word_of_the_page_is_there_in_every_language() -> None:
    for table in tables().values():
        for key, said in table.items():
            assert set(said) == set(LANGUAGES), key
            assert all(said.values()), key
            assert len({tuple(sorted(re.findall(r"\{\w+\}", text))) for text in said.values()}) == 1, key


def test_a_word_that_is_twice_in_a_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "words.yaml"
    table.write_text("names:\n  read: {en: a, zh: b}\n  read: {en: c, zh: d}\n")
    monkeypatch.setattr(words, "TABLE", table)
    with pytest.raises(RecipeError, match=r"words.yaml:3: .*'read'"):
        tables.__wrapped__()


def test_every_word_that_the_script_says_is_in_the_table() -> None:
    script = "".join((FOLDER / name).read_text() for name in (*SCRIPTS, "page.html"))
    said = set(re.findall(r'say\("([^"]+)"', script)) | set(re.findall(r'data-word="([^"]+)"', script))
    assert len(said) > 20
    assert said <= set(tables()["page"])


def test_captions_and_names_of_all_our_blocks_are_there_in_chinese() -> None:
    values = {
        (name, value.caption)
        for slot in slots()
        for entry in entries(slot).values()
        if entry.block.__module__.startswith("blocks.")
        for name, value in getattr(entry.block, "intermediates", {}).items()
    }
    assert {caption for _, caption in values} == set(captions())
    assert {name for name, _ in values} - {"output"} <= set(tables()["names"])
    axes = {
        axis
        for slot in slots()
        for entry in entries(slot).values()
        for value in getattr(entry.block, "intermediates", {}).values()
        for axis in value.axes
    }
    assert {f"axis {axis}" for axis in axes - {"..."}} <= set(tables()["page"])


def test_texts_from_outside_are_no_markup(pages: dict[str, Path]) -> None:
    page = pages["hybrid"].read_text()
    assert "<b>fish" not in page
    assert page.count("<script") == 2
    assert "https://" not in re.sub(r"http://www\.w3\.org/\S+", "", page)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_page_of_each_language_says_it(language: str) -> None:
    page = as_html(explain("tiny_decoder", "cat"), language=language)
    assert f'<html lang="{language}">' in page
    assert ("没有训练过的权重" in page) == (language == "zh")
    assert ("has no trained weights here" in page) == (language == "en")


@pytest.mark.parametrize("recipe", RECIPES)
def test_all_that_a_chinese_page_says_of_a_step_is_chinese(recipe: str) -> None:
    page = as_html(explain(recipe, "cat"), language="zh")
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    chinese = re.compile("[\u4e00-\u9fff]")
    for step in data["explanations"][0]["steps"]:
        assert chinese.search(step["caption"]), step["caption"]
        assert step["name"] in {*data["names"], "input", "output"}
        assert f"slot {step['block'].partition('/')[0]}" in data["names"]
        assert {f"axis {axis}" for axis in step["axes"]} <= set(data["words"])


def test_an_output_that_is_not_declared_has_the_formula_of_its_block_and_its_input() -> None:
    explanation = explain("tiny_decoder", "cat")
    step = explanation.find("decoder.layers.0.feedforward.activation", "output")
    assert step.formula == "y = x / (1 + exp(-x))"
    assert [one.label for one in step.of] == ["decoder.layers.0.feedforward.gate_input"]


@in_a_browser
@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 800, 1300])
@pytest.mark.parametrize("name", ["hybrid", "experts", "encoder", "translation", "compared"])
def test_pages_open_without_errors_at_any_width(
    pages: dict[str, Path], tab: Tab, name: str, width: int, dark: bool
) -> None:
    tab.open(pages[name], width=width, dark=dark)
    assert tab.run("document.documentElement.dataset.ready") == "yes"
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.problems() == []
    assert tab.requests() == []


@in_a_browser
@pytest.mark.slow
@pytest.mark.parametrize("name", ["hybrid", "experts", "encoder", "translation", "compared"])
def test_a_phone_shows_grids_formulas_and_tables_without_scrolling_to_the_side(
    pages: dict[str, Path], tab: Tab, name: str
) -> None:
    tab.open(pages[name], width=390)
    wider = "one => one.clientWidth && one.scrollWidth > one.clientWidth"
    parts = f"[...document.querySelectorAll('.scroll, .formula')].filter({wider})"
    assert tab.run(f"{parts}.map(one => one.closest('.step').innerText.slice(0, 80))") == []
    assert tab.run("document.querySelectorAll('.formula').length") > 20


@in_a_browser
@pytest.mark.slow
def test_labels_of_narrow_columns_do_not_overlap(pages: dict[str, Path], tab: Tab) -> None:
    tab.open(pages["hybrid"], width=300)
    places = tab.run(
        "(() => { const drawing = CanvasRenderingContext2D.prototype, usual = drawing.translate, places = [];"
        "drawing.translate = function (x, y) { places.push(x); return usual.call(this, x, y); };"
        "redraw(cards.find(({step}) => step.name === 'weights').owns.find(own => own.small === undefined));"
        "drawing.translate = usual; return places; })()"
    )
    assert len(places) > 5
    assert min(after - before for before, after in pairwise(places)) >= 12


@in_a_browser
@pytest.mark.slow
def test_a_reader_moves_through_steps_layers_and_cells_by_keyboard(pages: dict[str, Path], tab: Tab) -> None:
    tab.open(pages["compared"])
    tab.run("document.getElementById('next').focus()")
    tab.press("Enter")
    assert tab.run("document.querySelector('.step.current').id") == "step-1"
    assert tab.run("document.getElementById('progress').textContent").startswith("step 2 of")
    tab.run("setLayer('decoder', 1)")
    steps = tab.run("document.getElementById('steps').innerText")
    assert "only in tiny_hybrid" in steps
    assert "only in tiny_decoder" in steps
    shown = "[...document.querySelectorAll('.step[id^=step-]')].filter(e => !e.hidden).map(e => e.innerText).join('')"
    assert "1.mixer" in tab.run(shown)
    assert "0.mixer" not in tab.run(shown)
    step = "first.steps.find(one => one.name === 'scores' && one.layer === 1)"
    said = tab.run(
        f"(() => {{ const own = cards.find(one => one.step === {step}).owns[0]; own.canvas.focus();"
        "own.canvas.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}));"
        "return document.getElementById('inspector').innerText; })()"
    )
    assert "Scores = " in said
    assert "The products of the two rows sum to" in said
    tab.run("document.querySelector('.step:not([hidden]) .heads button:last-child').focus()")
    tab.press("Enter")
    assert tab.run("document.getElementById('head').value") == "3"
    tab.run("document.querySelectorAll('.token')[3].focus()")
    tab.press(" ")
    assert tab.run("document.querySelector('.token[aria-pressed=true]').dataset.index") == "3"
    assert "After “t”" in tab.run("document.getElementById('predicted').innerText")
    assert tab.problems() == []


@in_a_browser
@pytest.mark.slow
def test_the_number_of_a_cell_is_that_of_the_explanation(pages: dict[str, Path], tab: Tab) -> None:
    tab.open(pages["experts"])
    explanation = explain("tiny_experts", "cat eats fish")
    for number in (0, 9, 40, len(explanation.steps) - 1):
        found = tab.run(f"Array.from(numbersOf(first.steps[{number}]), value => String(value))")
        assert [float(one) for one in found] == explanation.steps[number].value.data.flatten().tolist()


@in_a_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1300])
def test_a_step_that_is_gone_to_stands_below_the_bar_and_above_the_inspector(
    pages: dict[str, Path], tab: Tab, width: int
) -> None:
    tab.open(pages["translation"], width=width)
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    tab.run("goTo(30, false)")
    tab.run("new Promise(done => setTimeout(done, 500))")
    top = tab.run("document.querySelector('.step.current').getBoundingClientRect().top")
    bar = tab.run("document.querySelector('.bar-of-controls').getBoundingClientRect().bottom")
    assert bar <= top <= bar + 40
    assert tab.run("document.querySelector('#drawing').getBoundingClientRect().bottom") <= tab.run(
        "document.querySelector('#inspector').getBoundingClientRect().top"
    )


@in_a_browser
@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "path", "label"),
    [
        ("hybrid", "decoder.layers.0.mixer_residual.norm", "mixer_residual.norm: rms"),
        ("hybrid", "decoder.layers.0.mixer_residual", "mixer: gated_delta"),
        ("hybrid", "decoder.layers.3.mixer", "mixer: latent"),
        ("hybrid", "decoder.layers.3.feedforward.activation", "feedforward: glu"),
        ("hybrid", "decoder.norm", "decoder.norm: rms"),
        ("experts", "decoder.layers.1.feedforward.router", "feedforward: moe"),
        ("translation", "decoder.layers.0.cross_residual.norm", "cross_residual.norm: layer"),
        ("translation", "encoder.layers.0.feedforward_residual.norm", "feedforward_residual.norm:"),
        ("translation", "embedding.positions", "embedding: token"),
    ],
)
def test_the_diagram_marks_the_block_of_a_step(
    page: str, path: str, label: str, pages: dict[str, Path], tab: Tab
) -> None:
    tab.open(pages[page])
    marked = tab.run(
        f"(() => {{ highlight(first.steps.find(one => one.path === '{path}' && one.name !== 'input'));"
        "const box = drawing.querySelector('.here'), of = name => Number(box.getAttribute(name));"
        "return labels.find(one => { const x = Number(one.getAttribute('x')), y = Number(one.getAttribute('y'));"
        "return of('x') <= x && x <= of('x') + of('width') && of('y') <= y && y <= of('y') + of('height');"
        "}).textContent; })()"
    )
    assert marked == label


@in_a_browser
@pytest.mark.slow
def test_tokens_that_are_left_out_cannot_be_followed_and_a_line_stands_where_they_are(
    pages: dict[str, Path], tab: Tab
) -> None:
    tab.open(pages["long"])
    assert tab.run("[...document.querySelectorAll('.token')].map(one => one.disabled)") == [
        *[False] * 3,
        *[True] * 8,
        *[False] * 3,
    ]
    scores = "first.steps.find(one => one.name === 'scores')"
    assert tab.run(f"[0, 1, 2].map(axis => gapsOf({scores}, axis))") == [[], [3], [3]]
    assert tab.run("gapsOf(first.steps.find(one => one.name === 'vectors'), 1)") == []


@in_a_browser
@pytest.mark.slow
def test_tokens_without_a_text_are_shown_by_their_number(pages: dict[str, Path], tab: Tab) -> None:
    tab.open(pages["experts"])
    assert tab.run(r"[shown('id 4659'), shown('\x1f'), shown(' cat'), shown('')]") == ["#4659", "\\x1f", "␣cat", "∅"]


@in_a_browser
@pytest.mark.slow
def test_a_cell_names_no_source_that_its_block_does_not_declare(pages: dict[str, Path], tab: Tab) -> None:
    tab.open(pages["hybrid"])
    sources = "sourcesOf(first, first.steps.find(one => one.name === 'output' && one.block === '{}'), [3, 2]).length"
    assert tab.run(sources.format("mixer/gated_delta")) == 0
    assert tab.run(sources.format("activation/silu")) == tab.run(
        "first.steps.find(one => one.name === 'output' && one.block === 'activation/silu').of.length"
    )
    assert tab.run(sources.format("feedforward/glu")) == 1
