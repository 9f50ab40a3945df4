"""The report as a reader sees it, in a headless Chromium."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockformer.studies.charts import charts_of, metric_of
from blockformer.studies.context import environment
from blockformer.studies.report import as_html
from tests.studies.browser import CHROMIUM, Tab, browser
from tests.studies.made_up import made_up, planned

QUESTION = "Which <feed-forward> & why?</script>"
LONG = "a_name_of_a_variant_that_is_nearly_as_long_as_a_name_may_be"
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium, such as Debian's package of that name")
SORTED = """column => [...document.querySelector("table").tBodies[0].rows].map(r => r.children[column].dataset.value)"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = planned(**{"question": QUESTION, f"variants.{LONG}": {"decoder.layer.mixer.kv_heads": 1}})
    results = made_up(plan)
    tried = [run | {"purpose": "tune", "learning_rate": rate} for run in results["runs"] for rate in (1e-3, 3e-3)]
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(as_html(results | {"tuning": tried, "learning_rates": {"base": 1e-3}}))
    return path


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with browser() as opened:
        yield opened


@in_a_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1100])
def test_the_page_shows_all_charts_without_an_error_a_request_or_sideways_scrolling(
    tab: Tab, page: Path, width: int, dark: bool
) -> None:
    tab.open(page, width=width, dark=dark)
    drawn = tab.run("[...document.querySelectorAll('.chart')].filter(c => c.querySelector('.main-svg')).map(c => c.id)")
    assert drawn == ["effects", "over", "against", "rates"]
    assert tab.run("document.documentElement.scrollWidth") == width
    assert (tab.problems(), tab.requests()) == ([], [])


@pytest.mark.slow
@in_a_browser
def test_a_dark_page_has_light_text_in_its_charts_too_also_when_the_system_changes(tab: Tab, page: Path) -> None:
    colours = """[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
        getComputedStyle(document.querySelector("#over .xtick text")).fill]"""
    tab.open(page, dark=False)
    assert tab.run(colours) == ["rgb(255, 255, 255)", "rgb(27, 30, 35)", "rgb(27, 30, 35)"]
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    tab.run("new Promise(done => setTimeout(done, 300))")
    assert tab.run(colours) == ["rgb(20, 23, 28)", "rgb(230, 232, 235)", "rgb(230, 232, 235)"]


@pytest.mark.slow
@in_a_browser
def test_tables_sort_by_click_and_by_key_with_empty_cells_last(tab: Tab, page: Path) -> None:
    tab.open(page)
    names = tab.run(f"({SORTED})(0)")
    assert names == ["base", "relu2", "none", "same", LONG]
    head = 'document.querySelectorAll("table th")[3]'
    assert tab.run(f"{head}.textContent") == "difference"
    tab.run(f"{head}.querySelector('button').click()")
    values = tab.run(f"({SORTED})(3)")
    assert values[:-1] == sorted(values[:-1], key=float)
    assert values[-1] == ""  # the base has no difference
    assert tab.run(f"{head}.getAttribute('aria-sort')") == "ascending"
    tab.run(f"{head}.querySelector('button').focus()")
    tab.press("Enter")
    assert tab.run(f"({SORTED})(3)") == [*reversed(values[:-1]), ""]
    assert tab.run(f"{head}.getAttribute('aria-sort')") == "descending"
    tab.run("document.querySelectorAll('table th button')[0].click()")
    assert tab.run(f"({SORTED})(0)") == sorted(names, key=str.lower)
    assert tab.run("document.querySelectorAll('[aria-sort]').length") == 1


@pytest.mark.slow
@in_a_browser
def test_pointing_at_a_chart_shows_a_value(tab: Tab, page: Path) -> None:
    tab.open(page)
    tab.run("document.querySelector('#effects').scrollIntoView()")
    x, y = tab.run("""(() => { const box = document.querySelectorAll("#effects .point")[1].getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2]; })()""")
    tab.move(x - 3, y)
    tab.move(x, y)
    tab.run("new Promise(done => setTimeout(done, 400))")
    said = tab.run("document.querySelector('#effects .hoverlayer').textContent")
    assert said.startswith("none: +0.2")
    assert said.endswith("worse")


@pytest.mark.slow
@in_a_browser
def test_a_switch_changes_the_axis_of_its_chart(tab: Tab, page: Path) -> None:
    tab.open(page)
    title = "document.querySelector('#over .xtitle').textContent"
    assert tab.run(title) == "tokens read"
    tab.run("document.querySelector('[data-chart=over][data-axis=flops]').focus()")
    tab.press(" ")
    assert tab.run(title) == "FLOPs of training"
    pressed = "[...document.querySelectorAll('[data-chart=over]')].map(one => one.getAttribute('aria-pressed'))"
    assert tab.run(pressed) == ["false", "true", "false"]
    assert tab.run("document.querySelector('#against .xtitle').textContent") == "parameters"


def test_texts_of_a_study_are_texts_of_the_page(page: Path) -> None:
    text = page.read_text()
    assert "Which &lt;feed-forward&gt; &amp; why?&lt;/script&gt;" in text
    assert QUESTION not in text
    assert text.count("</script>") == 2


def test_the_page_holds_everything_that_a_reader_needs_to_judge_and_repeat(page: Path) -> None:
    text = page.read_text()
    for needed in (
        *("blockformer compare which.yaml", "threads of a run", "Dunnett&#x27;s test", "correlation with the base"),
        *("decoder, all layers, mixer.kv_heads", "the same model", "fixed before the first one as plan", "FLOPs/token"),
    ):
        assert needed in text, needed


def test_charts_hold_the_numbers_of_the_results() -> None:
    results = made_up(planned())
    charts = {name: json.loads(chart.to_json()) for name, chart in charts_of(results).items()}
    point = next(trace for trace in charts["effects"]["data"] if trace["y"] == ["none"])
    of = results["verdicts"]["none"]
    assert point["x"] == [of["difference"]]
    assert point["x"][0] + point["error_x"]["array"][0] == pytest.approx(of["high"])
    assert point["x"][0] - point["error_x"]["arrayminus"][0] == pytest.approx(of["low"])
    lines = {trace["name"]: trace for trace in charts["over_flops"]["data"] if trace.get("name")}
    flops = results["plan"]["variants"]["none"]["flops"]
    assert lines["none"]["x"][-1] == 3 * flops * results["runs"][0]["curve"][-1]["tokens"]
    cost = {trace["name"]: trace["x"][0] for trace in charts["against_cache"]["data"]}
    assert cost["base"] == results["plan"]["variants"]["base"]["cache"]


def test_measured_speed_and_limits_are_shown() -> None:
    results = made_up(planned(limits="Only of <tiny> models."))
    measured = {"relative_low": 1.0, "relative_high": 1.4, "peak_memory": 123456, "rounds": [1.0]}
    speed = {name: {"tokens_per_second": 4321.0, "relative": 1.25, **measured} for name in results["means"]}
    where = environment() | {"rounds": 5, "steps of a turn": 3}
    page = as_html(results | {"speed": speed, "speed_environment": where})
    for text in ("Only of &lt;tiny&gt; models.", ">4,321</td>", ">1.25</td>", ">123,456</td>", "speed / base"):
        assert text in page, text
    assert "speed / base" not in as_html(results)


def test_a_study_without_finished_runs_has_a_page_too() -> None:
    results = made_up(planned(seeds=1))
    runs = [run | {"status": "diverged", "figure": None, "curve": []} for run in results["runs"]]
    verdicts = {
        name: of | {"verdict": "undecided", "difference": None, "low": None, "diverged": 1}
        for name, of in results["verdicts"].items()
    }
    page = as_html(results | {"runs": runs, "verdicts": verdicts, "noise": None})
    assert "Nothing can be compared yet." in page
    assert "No run has figures to show." in page


@pytest.mark.parametrize(("key", "axis"), [("tokens", "tokens"), ("seconds", "seconds"), ("figure", "flops")])
def test_a_point_of_a_curve_that_lacks_a_number_is_not_drawn(key: str, axis: str) -> None:
    results = made_up(planned())
    whole = charts_of(results)
    for run in results["runs"]:
        del run["curve"][0][metric_of(results) if key == "figure" else key]
    shorter = charts_of(results)
    assert shorter.keys() == whole.keys()
    length = [len(json.loads(found[f"over_{axis}"].to_json())["data"][-1]["x"]) for found in (whole, shorter)]
    assert length[1] == length[0] - 1
