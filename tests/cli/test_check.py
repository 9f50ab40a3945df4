"""`blockformer check`."""

import json
from pathlib import Path

import pytest

import blockformer as bf
import registry
from blockformer.cli.main import main


def written(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_good_recipe_gets_one_line_with_its_size_and_hash(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "gpt2", "llama3_8b"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"gpt2: ok, decoder_only, 124,439,808 parameters, hash {registry.load_recipe('gpt2').hash[:12]}"
    assert second.startswith("llama3_8b: ok, decoder_only, 8,030,261,248 parameters")


def test_every_problem_of_every_file_gets_a_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first = written(tmp_path, "first.yaml", "type: decoder_only\ndim: many\ndecoder:\n  depht: 2\n")
    second = written(tmp_path, "second.yaml", "type: decoder_only\ndim: 30\n")
    assert main(["check", first, "gpt2", second]) == 2
    output = capsys.readouterr()
    assert output.out.startswith("gpt2: ok")
    one, two, three = output.err.splitlines()
    assert one.startswith(f"{first}:2: dim: must be ")
    assert "many" in one
    assert two == f"{first}:4: decoder.depht: stack 'layers' has no parameter 'depht'; did you mean 'depth'?"
    assert three.startswith(f"{second}:")
    assert "30" in three
    assert "8" in three


def test_overrides_apply_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    glu = {"type": "glu", "hidden": 64}
    whole, part = f"decoder.layer.feedforward={json.dumps(glu)}", "decoder.layer.feedforward.hidden=32"
    assert main(["check", "gpt2", "--set", whole, "--set", part]) == 0
    size = bf.build("gpt2", {"decoder.layer.feedforward": glu | {"hidden": 32}}, device="meta").size
    assert f"{size:,} parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recipe", "size"),
    [
        ("gpt2", "dim=3000000000000"),
        ("gpt2", "max_length=9223372036854775807"),
        ("gpt2", "max_length=100000000000000000000"),
        ("tiny_decoder", "dim=1000000000000"),
    ],
)
def test_a_size_beyond_any_tensor_is_a_mistake_like_others(
    capsys: pytest.CaptureFixture[str], recipe: str, size: str
) -> None:
    assert main(["check", recipe, "--set", size]) == 2
    output = capsys.readouterr()
    assert output.err
    assert all("too large for a tensor" in line or "is above" in line for line in output.err.splitlines())
