import json
from pathlib import Path

import pytest

from blockformer import build
from blockformer.cli.main import main
from blockformer.huggingface import export_folder, load_family
from registry import load_recipe
from tests.huggingface.conftest import LLAMA


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    recipe = load_recipe(LLAMA)
    return export_folder(recipe, build(recipe, seed=1).state_dict(), tmp_path / "llama", load_family("llama"))


def test_a_folder_is_converted_to_a_recipe_and_its_weights(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(folder), "--out", str(tmp_path / "out")]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{folder}: Llama 1 to 3.3, decoder_only, ")
    assert second == f"{tmp_path}/out: model.safetensors, recipe.yaml"
    assert main(["check", str(tmp_path / "out" / "recipe.yaml")]) == 0


def test_the_default_output_folder_is_in_the_current_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["import", str(folder)]) == 0
    assert (tmp_path / "llama-imported" / "recipe.yaml").is_file()


def test_verify_prints_the_largest_difference(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(folder), "--verify", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "largest relative difference of the logits: " in said
    assert "not tried: padding before a text" in said
    with pytest.raises(SystemExit):
        main(["import", str(folder), "--verify", "--longest", "0"])
    assert "--longest must be at least 1, not 0" in capsys.readouterr().err


def test_a_model_that_differs_is_not_written_and_its_first_layer_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(
        "extends: llama\nmatch: {model_type: llama, architectures: LlamaForCausalLM}\n"
        'let: {mixer: {scale: "=1.0 if layer == 1 else None"}}'
    )
    out = tmp_path / "out"
    assert main(["import", str(folder), "--verify", "--family", str(wrong), "--out", str(out)]) == 1
    lines = capsys.readouterr().out.splitlines()
    (first,) = [line for line in lines if line.endswith("<- first that differs")]
    assert first.split()[0] == "decoder.layers.1"
    assert lines[-1] == f"{out} was not written"
    assert not out.exists()


def test_a_mistake_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "lama"}')
    assert main(["import", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path}/config.json: no family supports model_type 'lama'; nearest: ")


def test_a_tokenizer_that_is_refused_where_it_is_used_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    model = {"type": "WordLevel", "vocab": {"<unk>": 0, "a": 1}, "unk_token": "<unk>"}
    content = {"version": "1.0", "added_tokens": [], "model": model}
    (folder / "tokenizer.json").write_text(json.dumps({**content, "pre_tokenizer": split}))
    assert main(["import", str(folder), "--out", str(tmp_path / "new")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert 'has the pattern "(a+)+$", which repeats a repetition' in line
    assert main(["generate", str(tmp_path / "new"), "--prompt", "a"]) == 2
    assert capsys.readouterr().err.strip() in line
