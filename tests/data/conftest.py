from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a cache of its own."""
    monkeypatch.setenv("BLOCKFORMER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An importable package of twelve documented modules, whose import would fail."""
    folder = tmp_path / "site" / "documented"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('imported')")
    for number in range(12):
        about = (
            f"Module {number} explains at some length, with naïve words, what it is good for and why it was written."
        )
        shared = (
            "Return what every other module of this package returns as well, in a sentence of more than eighty letters."
        )
        (folder / f"module{number}.py").write_text(
            f'"""{about}"""\nclass A:\n    """Short."""\n    def f(self):\n        """{shared}"""\n', encoding="utf-8"
        )
    (folder / "tests").mkdir()
    (folder / "tests" / "test_it.py").write_text(
        '"""' + "No test's documentation is read, however long it is. " * 3 + '"""'
    )
    (folder / "broken.py").write_text(
        '"""' + "This file is no Python, so nothing is read of it at all. " * 3 + '"""\ndef'
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return "documented"
