"""The walks through the code in docs/design.md name files and functions that exist."""

import re
from importlib import import_module

import pytest

from tests.docs.snippets import ROOT

HOPS = re.findall(r"`([\w/]+)\.py:([\w.]+)`", (ROOT / "docs" / "design.md").read_text())
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
ENTRY_POINTS = "blockformer.blocks", "blockformer.families"
"""Names in pages that look like modules and are not."""
NAMES = {
    found
    for page in PAGES
    for found in re.findall(
        r"(?<![\w/.-])(?:blockformer|blocks|registry)(?:\.[A-Za-z_]\w*)+(?![\w/-])", page.read_text()
    )
}
ROOMS = re.findall(r"^\| `([\w/]+)/` \|", (ROOT / "docs" / "design.md").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize(("file", "name"), HOPS, ids=[f"{file}:{name}" for file, name in HOPS])
def test_every_hop_exists(file: str, name: str) -> None:
    found = import_module(file.replace("/", "."))
    for part in name.split("."):
        found = getattr(found, part)
    assert callable(found)


@pytest.mark.parametrize("name", sorted(NAMES - {*ENTRY_POINTS}))
def test_every_module_class_and_function_that_a_page_names_exists(name: str) -> None:
    parts = name.split(".")
    for number in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:number]))
        except ModuleNotFoundError:
            continue
        for part in parts[number:]:
            found = getattr(found, part)
        return
    pytest.fail(f"there is no {name}")


def test_every_room_is_described() -> None:
    rooms = {f"blockformer/{path.parent.name}" for path in (ROOT / "blockformer").glob("*/__init__.py")}
    assert set(ROOMS) == {"registry", "blocks", "blockformer", "recipes", "studies", *rooms}
    assert len(HOPS) > 20
