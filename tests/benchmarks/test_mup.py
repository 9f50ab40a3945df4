"""The measurement of the best learning rate by width."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import mup


def test_a_stopped_measurement_trains_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[int, str, float]] = []

    def pretended(data: Any, width: int, init: str, rate: float, steps: int) -> float:
        """Best at the second rate, and without mup in the widest model at the first."""
        if len(trained) == 20:
            raise KeyboardInterrupt
        trained.append((width, init, rate))
        return abs(mup.RATES.index(rate) - (init == "mup" or width < mup.WIDTHS[-1]))

    monkeypatch.setattr(mup, "trained_loss", pretended)
    monkeypatch.setattr(mup, "text", lambda: None)
    out = tmp_path / "mup.json"
    with pytest.raises(KeyboardInterrupt):
        mup.measure(out, 5)
    before, trained[:] = list(trained), []
    first, second = mup.RATES[:2]
    widths = [str(width) for width in mup.WIDTHS]
    assert mup.measure(out, 5)["best"] == {
        "mup": dict.fromkeys(widths, second),
        "normal": {**dict.fromkeys(widths, second), widths[-1]: first},
    }
    assert len({*before, *trained}) == len(before) + len(trained) == 5 * len(mup.RATES)  # the base width is shared
    with pytest.raises(SystemExit, match="has runs of 5 steps, not 6: give another --out"):
        mup.measure(out, 6)


def test_only_the_width_and_the_init_differ() -> None:
    narrow, wide = mup.recipe(64, "mup"), mup.recipe(256, "normal")
    assert {key for key in narrow if narrow[key] != wide[key]} == {"dim", "init"}
