"""The built site: no dead link, and each kind of page in a browser, at three widths, light and dark."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest

from tests.docs.snippets import ROOT
from tests.studies.browser import CHROMIUM, Tab, browser

pytestmark = pytest.mark.slow

PAGES = (
    "",
    "zh/",
    "zh/tour/",
    "tour/",
    "tour/attention/",
    "tour/layer/",
    "getting-started/",
    "recipe-language/",
    "models/",
    "models/llama/",
    "models/t5/",
    "blocks/",
    "blocks/mixer/",
    "blocks/objective/",
    "matrix/",
    "compare/",
    "studies/heads/",
)
WIDTHS = (360, 800, 1400)
LOADED = """Promise.all([...document.images].map(image => {
    image.loading = "eager"; return image.decode().then(() => "", () => image.currentSrc || image.src)
})).then(failed => failed.filter(Boolean))"""
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
SEARCHED = """new Promise(found => {
    const input = document.querySelector("[data-md-component=search-query]"); input.focus()
    input.value = "QUERY"; input.dispatchEvent(new Event("keyup", {bubbles: true}))
    const wait = setInterval(() => {
        const items = document.querySelectorAll(".md-search-result__item")
        if (items.length) { clearInterval(wait); found(items[0].textContent) }
    }, 100)
})"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


class Anchors(HTMLParser):
    """The names of a page that links can aim at, and the links and files that it asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names, self.links = set[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.names.add(value)
            if name in ("href", "src") and value:
                self.links.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    if CHROMIUM is None:
        pytest.skip("needs a chromium, such as Debian's package of that name")
    with browser() as opened:
        yield opened


def test_no_link_is_dead(site: Path) -> None:
    pages = {path.relative_to(site).as_posix(): Anchors(path.read_text()) for path in site.rglob("*.html")}
    dead: list[str] = []
    for name, page in pages.items():
        for link in page.links if name != "404.html" else ():
            parts = urlsplit(urljoin(f"http://here/{name}", link))
            if parts.netloc != "here" or parts.scheme != "http":
                continue
            target = unquote(parts.path).lstrip("/")
            target += "index.html" if not target or target.endswith("/") else ""
            anchor = unquote(parts.fragment)
            if not (site / target).is_file() or (anchor and anchor not in pages[target].names):
                dead.append(f"{name}: {link}")
    assert len(pages) > 80
    assert not dead


def test_the_site_asks_for_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        for text in ("<script src=http", '<script src="http', '<link rel="stylesheet" href="http', "@import"):
            assert text not in path.read_text(), path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("page", PAGES, ids=[page or "home" for page in PAGES])
def test_a_page_fits_every_width_and_reports_no_problem(page: str, dark: bool, address: str, tab: Tab) -> None:
    tab.visit(address + page, width=WIDTHS[0], dark=dark)
    assert tab.run(LOADED) == []
    for width in WIDTHS:
        tab.resize(width)
        assert tab.run(WIDER) <= 0, f"wider than {width}"
    assert tab.run("document.body.dataset.mdColorScheme") == ("slate" if dark else "default")
    assert tab.problems() == []
    assert [url for url in tab.requests() if not url.startswith(address)] == []


@pytest.mark.parametrize("page", ["tour/explained.html", "zh/explained.html"])
def test_the_page_of_the_trained_model_opens_at_every_width(page: str, address: str, tab: Tab) -> None:
    tab.visit(address + page, width=WIDTHS[0])
    assert tab.run("document.documentElement.dataset.ready") == "yes"
    for width in WIDTHS:
        tab.resize(width)
        assert tab.run(WIDER) <= 0, f"wider than {width}"
    assert tab.run("document.querySelector('.bars .name').textContent") == "<end>"
    tab.run("[...document.querySelectorAll('.token')].find(one => one.textContent.startsWith('eats')).click()")
    assert tab.run("document.querySelector('.bars .name').textContent") == "fish"
    assert tab.problems() == []


def test_a_page_is_in_the_language_that_it_says(site: Path) -> None:
    for path in site.rglob("*.html"):
        name = path.relative_to(site).as_posix()
        assert f'<html lang="{"zh" if name.startswith("zh/") else "en"}"' in path.read_text(), name


@pytest.mark.parametrize(("page", "query", "found"), [("", "grouped-query", "rouped"), ("zh/", "注意力", "注意力")])
def test_search_finds_a_block_and_chinese_words(page: str, query: str, found: str, address: str, tab: Tab) -> None:
    tab.visit(address + page)
    assert found in tab.run(SEARCHED.replace("QUERY", query))
