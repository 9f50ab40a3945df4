import subprocess
import sys
from pathlib import Path

import pytest

from blockformer.data import cache
from blockformer.errors import DataError


def _write(text: str, calls: list[str] | None = None):
    def build(folder: Path) -> None:
        (folder / "text").write_text(text)
        if calls is not None:
            calls.append(text)

    return build


def test_builds_once_for_a_key_and_again_for_another() -> None:
    calls: list[str] = []
    first = cache.cached("x", {"a": 1}, _write("one", calls))
    assert cache.cached("x", {"a": 1}, _write("one", calls)) == first
    assert cache.cached("x", {"a": 2}, _write("two", calls)) != first
    assert calls == ["one", "two"]
    assert (first / "text").read_text() == "one"


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest"])
def test_a_damaged_entry_is_built_anew(damage: str) -> None:
    place = cache.cached("x", {}, _write("content"))
    file = place / "text"
    match damage:
        case "truncate":
            file.write_text("cont")
        case "flip":
            file.write_text("c0ntent")
        case "remove":
            file.unlink()
        case _:
            (place / "manifest.json").write_text("{")
    assert (cache.cached("x", {}, _write("content")) / "text").read_text() == "content"
    assert cache.intact(place)
    assert [path.name for path in place.parent.iterdir()] == [place.name], "nothing is left lying about"


def test_a_build_that_fails_leaves_nothing() -> None:
    def build(folder: Path) -> None:
        (folder / "text").write_text("half")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        cache.cached("x", {}, build)
    assert list(cache.root().iterdir()) == []


def test_processes_that_build_at_once_all_get_the_entry() -> None:
    code = (
        "import time, sys; from blockformer.data import cache\n"
        "def build(folder):\n    time.sleep(0.3); (folder / 'text').write_text('content')\n"
        "print((cache.cached('x', {}, build) / 'text').read_text())"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in running] == ["content"] * 3
    assert len(list(cache.root().iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BLOCKFORMER_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="BLOCKFORMER_CACHE") as caught:
        cache.cached("x", {}, _write(""))
    assert "\n" not in str(caught.value)


def test_lies_in_the_usual_place_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BLOCKFORMER_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.root() == Path.home() / ".cache" / "blockformer"
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.root() == Path("/somewhere/blockformer")
