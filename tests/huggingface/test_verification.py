"""The texts of a verification contain what could make two models differ."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.utils.generic import ModelOutput

from blockformer import build
from blockformer.cli.import_ import comparison_lines
from blockformer.huggingface import HuggingFaceNames, export_folder, read_folder, verification, verify
from blockformer.huggingface.verification_inputs import Trials, trials
from registry import load_recipe
from tests.huggingface.conftest import LLAMA

MASK, VOCABULARY = 1777, 2000


def tried(folder: Path, config: dict[str, Any], changes: dict[str, Any] | None = None, **limits: int) -> Trials:
    recipe = load_recipe(LLAMA, {"vocab_size": VOCABULARY, **(changes or {})})
    options = {"length": 32, "longest": 1024, **limits}
    return trials(build(recipe), recipe, config, folder, **options)


def test_every_special_token_is_in_the_texts(tmp_path: Path) -> None:
    added = [{"id": 1500, "content": "<x>", "special": True}, {"id": 1501, "content": "x", "special": False}]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    config = {
        "mask_token_id": MASK,
        "eos_token_id": [7, 8],
        "bos_token_id": None,
        "pad_token_id": 3,
        "unk_token_id": 9999,
    }
    found = tried(tmp_path, config)
    for batch in found.batches:
        for row in batch["input_ids"]:
            assert {MASK, 7, 8, 1500} <= set(row.tolist())
        assert not (batch["input_ids"][batch["attention_mask"].bool()] == 3).any()
    assert found.untried[0] == "unk_token_id 9999, which the vocabulary does not have"
    assert "pad_token_id 3 inside a text" in found.untried


def test_texts_are_longer_than_windows_and_trained_lengths(tmp_path: Path) -> None:
    stretched = {"type": "rotary", "scaling": {"type": "linear", "factor": 2.0}}
    dynamic = {"type": "rotary", "scaling": {"type": "dynamic", "factor": 2.0, "trained_length": 40}}
    for changes, lengths in (
        ({}, [32]),
        ({"decoder.layer.mixer.window": 50, "max_length": 99}, [54]),
        ({"decoder.layer.mixer.positions": stretched}, [32]),
        ({"decoder.layer.mixer.positions": dynamic}, [44, 39]),
    ):
        assert [batch["input_ids"].shape[1] for batch in tried(tmp_path, {}, changes).batches] == lengths


def test_a_window_that_no_text_reaches_is_named(tmp_path: Path) -> None:
    changes = {"decoder.layer.mixer.window": 500, "max_length": 999}
    found = tried(tmp_path, {}, changes, longest=100)
    assert found.batches[0]["input_ids"].shape[1] == 32
    assert found.untried[0] == "texts beyond the window of 500 tokens"


@pytest.mark.parametrize("wrong", [False, True])
def test_a_model_that_differs_at_one_special_token_is_noticed(
    wrong: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(LLAMA, {"vocab_size": VOCABULARY})
    model = build(recipe, seed=1)
    folder = export_folder(recipe, model.state_dict(), tmp_path / "out", tokens={"mask_token_id": MASK})
    original = HuggingFaceNames(build(recipe, seed=1).eval())
    if wrong:
        with torch.no_grad():
            original.model.embedding.tokens.weight[MASK] *= 2

    class Output(SimpleNamespace):
        def get(self, name: str) -> Any:
            return getattr(self, name, None)

    def answer(use_cache: bool, output_hidden_states: bool, **inputs: torch.Tensor) -> Any:
        return Output(logits=original(**inputs))

    monkeypatch.setattr(verification, "_load_original", lambda imported: answer)
    result = verify(read_folder(folder))
    assert result.agrees is not wrong
    assert comparison_lines(result)[1] == "not tried: padding before a text"


@pytest.mark.parametrize("kind", ["rounding", "another computation", "float32 only"])
def test_rounding_is_told_from_another_computation(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(LLAMA, {"vocab_size": VOCABULARY})
    model = build(recipe, seed=1)
    folder = export_folder(recipe, model.state_dict(), tmp_path / "out")
    wrong = 0.0 if kind == "rounding" else 1e-3

    class Original(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.names = HuggingFaceNames(build(recipe, seed=1).eval())

        def forward(self, use_cache: bool, output_hidden_states: bool, **inputs: torch.Tensor) -> Any:
            logits = self.names(**inputs)
            if kind == "float32 only" and logits.dtype == torch.float64:
                raise RuntimeError("products of groups are float32")
            noise = 1e-3 if logits.dtype == torch.float32 else wrong
            return ModelOutput(logits=logits + noise * logits.abs().max())

    monkeypatch.setattr(verification, "_load_original", lambda imported: Original())
    result = verify(read_folder(folder))
    assert torch.get_default_dtype() == torch.float32
    assert result.agrees is (kind == "rounding")
    if kind == "rounding":
        assert result.logits < 1e-12
        assert result.rounding == pytest.approx(1e-3, rel=1e-2)
        assert "in float64; 1.0e-03 in float32" in comparison_lines(result)[0]
    else:
        assert result.logits == pytest.approx(1e-3, rel=1e-2)
        assert result.rounding is None
