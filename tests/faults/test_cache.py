"""Damaged caches of prepared data."""

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest

from blockformer.data import cache
from blockformer.data.module import TextData
from tests.faults.damage import damaged_bytes


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_a_damaged_cache_is_built_anew_with_the_same_content(
    kind: str,
    text: Path,
    faults: int,
    tmp_path: Path,
    tally: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BLOCKFORMER_CACHE", str(tmp_path / "cache"))

    def prepared() -> TextData:
        size = {"vocab_size": 300} if kind == "bpe" else {}
        return TextData(dataset="text", files=str(text), tokenizer=kind, length=32, **size)

    whole = prepared()
    tokens, dumped = whole.prepared.documents("train")[0], whole.tokenizer.dump()
    shutil.copytree(cache.root(), tmp_path / "whole")
    for number in range(max(5, faults // 4)):
        draw = Random(number)
        file = draw.choice(sorted(path for path in cache.root().rglob("*") if path.is_file()))
        damage = draw.choice(["bytes", "bytes", "bytes", "removed", "another file", "entry removed"])
        match damage:
            case "bytes":
                file.write_bytes(damaged_bytes(file.read_bytes() or b"x", draw)[1])
            case "removed":
                file.unlink()
            case "another file":
                (file.parent / "strange").write_text("x")
            case _:
                shutil.rmtree(file.parent)
        again = prepared()
        assert np.array_equal(again.prepared.documents("train")[0], tokens), (number, damage)
        assert again.tokenizer.dump() == dumped, (number, damage)
        assert all(cache.intact(entry) for entry in cache.root().iterdir() if not entry.name.startswith("docstrings"))
        tally("cache", f"repaired ({damage})")
        shutil.rmtree(cache.root())
        shutil.copytree(tmp_path / "whole", cache.root())
