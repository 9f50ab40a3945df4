"""`blockformer blocks` and `blockformer schema`."""

import json
from pathlib import Path

import pytest

import registry
from blockformer.cli.main import main
from registry.schema import schema


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_lists_every_slot_with_its_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "blocks")
    for slot in [*registry.slots(), *registry.option_slots()]:
        assert f"\n{slot} " in f"\n{text}"
        assert ", ".join(sorted(registry.entries(slot))) in text


def test_lists_the_blocks_of_a_slot_with_a_sentence_each(capsys: pytest.CaptureFixture[str]) -> None:
    first, keys, _, *lines = printed(capsys, "blocks", "norm").splitlines()
    assert first == "norm: Normalises the last axis."
    assert keys.startswith("Written under `norm:`")
    assert [line.split()[0] for line in lines] == sorted(registry.entries("norm"))


def test_explains_a_block(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "blocks", "mixer/attention")
    assert "softmax" in text
    assert "arXiv:1706.03762" in text
    assert "\nkv_heads: null\n    positive integer or null\n    number of key and value heads" in text
    assert "\nqk_norm: null\n    recipe for a norm or null\n" in text
    assert "No parameters." in printed(capsys, "blocks", "norm/none")


@pytest.mark.parametrize("place", ["", "norm", "norm/rms"])
def test_json_is_the_same_catalogue(capsys: pytest.CaptureFixture[str], place: str) -> None:
    found = json.loads(printed(capsys, "blocks", *filter(None, [place]), "--format", "json"))
    if place == "norm/rms":
        assert found["parameters"][0] == {
            "name": "eps",
            "type": "positive number",
            "slot": None,
            "default": 1e-6,
            "description": "added to the mean square before the square root.",
        }
    else:
        assert set(found) == ({"norm"} if place else {*registry.slots(), *registry.option_slots()})
        assert {block["name"] for block in found["norm"]["blocks"]} == set(registry.entries("norm"))


def test_the_schema_is_printed_or_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wanted = json.loads(json.dumps(schema()))
    assert json.loads(printed(capsys, "schema")) == wanted
    assert printed(capsys, "schema", "--out", str(tmp_path / "s.json")) == ""
    assert json.loads((tmp_path / "s.json").read_text()) == wanted
