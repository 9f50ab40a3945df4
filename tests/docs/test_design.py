"""The walks through the code in docs/design.md name files and functions that exist."""

import re
from importlib import import_module

import pytest

from tests.docs.snippets import ROOT

HOPS = re.findall(r"`([\w/]+)\.py:([\w.]+)`", (ROOT / "docs" / "design.md").read_text())
ROOMS = re.findall(r"^\| `([\w/]+)/` \|", (ROOT / "docs" / "design.md").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize(("file", "name"), HOPS, ids=[f"{file}:{name}" for file, name in HOPS])
def test_every_hop_exists(file: str, name: str) -> None:
    found = import_module(file.replace("/", "."))
    for part in name.split("."):
        found = getattr(found, part)
    assert callable(found)


def test_every_room_is_described() -> None:
    rooms = {f"blockformer/{path.parent.name}" for path in (ROOT / "blockformer").glob("*/__init__.py")}
    assert set(ROOMS) == {"registry", "blocks", "blockformer", "recipes", "studies", *rooms}
    assert len(HOPS) > 20
