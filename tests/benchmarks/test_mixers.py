"""The measurement of attention by option and length, at toy sizes."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import mixers


def test_full_attention_is_the_measure_and_results_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    out, plot, threads = tmp_path / "mixers.json", tmp_path / "mixers.svg", torch.get_num_threads()
    arguments = ["--lengths", "16", "48", "--turns", "1", "--out", str(out), "--plot", str(plot)]
    monkeypatch.setattr(sys, "argv", ["mixers", *arguments])
    try:
        mixers.main()
    finally:
        torch.set_num_threads(threads)
    found = json.loads(out.read_text(encoding="utf-8"))
    assert {(one["option"], one["length"]) for one in found["measured"]} == {
        (option, length) for option in mixers.OPTIONS for length in (16, 48)
    }
    full = [one for one in found["measured"] if one["option"] == mixers.FULL]
    assert all(one["time_ratio"] == 1 == one["kept_ratio"] for one in full)
    assert "</svg>" in plot.read_text(encoding="utf-8")


@pytest.mark.parametrize("option", mixers.OPTIONS)
def test_an_option_gives_the_values_of_eager(option: str) -> None:
    x = torch.randn(1, 40, mixers.DIM)
    found = mixers.run(mixers.mixer(option), option, x)
    torch.testing.assert_close(found, mixers.run(mixers.mixer(option, "eager"), option, x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("option", mixers.OPTIONS)
def test_an_option_keeps_about_what_full_attention_keeps(option: str) -> None:
    """Of 2,048 tokens, for which a mask or scores would take many times as much."""
    x = torch.randn(1, 2048, mixers.DIM)
    full = mixers.kept(mixers.mixer(mixers.FULL), mixers.FULL, x)
    assert mixers.kept(mixers.mixer(option), option, x) <= 1.2 * full
