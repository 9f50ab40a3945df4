"""The measurement of decoding, at toy sizes."""

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import decoding

SMALL = {
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2},
    "llama": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
}


@pytest.mark.slow
def test_both_sides_write_the_same_and_a_case_replaces_an_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    for name, (kind, settings) in decoding.SHAPES.items():
        monkeypatch.setitem(decoding.SHAPES, name, (kind, settings | SMALL[name]))
    out, threads = tmp_path / "decoding.json", torch.get_num_threads()
    given = ["--batches", "1", "2", "--prompt", "3", "--new", "4", "--turns", "1", "--out", str(out)]
    try:
        for shapes in (["gpt2"], ["gpt2", "llama"]):
            monkeypatch.setattr(sys, "argv", ["decoding", *given, "--shapes", *shapes])
            decoding.main()
    finally:
        torch.set_num_threads(threads)
    measured = json.loads(out.read_text(encoding="utf-8"))["measured"]
    cases = [(name, batch) for name in ("gpt2", "llama") for batch in (1, 2)]
    assert [(one["shape"], one["batch"]) for one in measured] == cases
    assert all(one["same_tokens"] and one["ratio"]["ours"] > 0 for one in measured)
    assert "OTHER" not in capsys.readouterr().out
