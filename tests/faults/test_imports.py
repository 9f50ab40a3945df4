"""Damaged and hostile folders: `blockformer import` gives one line for each problem and reads nothing outside."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from blockformer import build
from blockformer.data import hub_tokenizer
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.errors import DataError
from blockformer.huggingface import export_folder, load_family, read_folder, write_folder
from registry import RecipeError, load_recipe
from tests.faults.conftest import RAW, Answer
from tests.faults.damage import STRANGE, damaged_bytes, damaged_values
from tests.huggingface.conftest import LLAMA

Run = Callable[..., Answer]
Tally = Callable[[str, str], None]
SECRET = "the canary sings"
HUGE = (10**9, 10**18, 1e9, "9" * 5000)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small folder with a tokenizer."""
    recipe = load_recipe(LLAMA)
    folder = export_folder(
        recipe, build(recipe, seed=1).state_dict(), tmp_path_factory.mktemp("hub") / "llama", load_family("llama")
    )
    hub_tokenizer.write(ByteTokenizer(), "decoder_only", 32, folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "stranger")


def shards(folder: Path, **files: str) -> Path:
    """The folder with an index, which names a file for some tensors instead of the right one."""
    weights = folder / "model.safetensors"
    names = list(load_file(weights))
    weights.rename(folder / "part.safetensors")
    index = dict.fromkeys(names, "part.safetensors") | {
        name: files.get("first", "part.safetensors") for name in names[:1]
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def refusal(folder: Path, out: Path) -> str | None:
    """The error of an import; None: it succeeds."""
    try:
        write_folder(read_folder(folder), out)
    except RecipeError as error:
        found = str(error)
    else:
        shutil.rmtree(out)
        return None
    assert not RAW.search(found)
    return found


def test_any_config_is_imported_or_refused_in_lines(
    whole: Path, folder: Path, tmp_path: Path, faults: int, tally: Tally
) -> None:
    config = json.loads((whole / "config.json").read_text())
    extra = {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 10.0}, "layer_types": ["a"]}
    for number in range(faults):
        draw = Random(number)
        start = config | (extra if draw.random() < 0.3 else {})
        what, changed = damaged_values(start, draw)
        if draw.random() < 0.3:
            key = draw.choice(list(changed))
            what, changed = f"{key} huge", changed | {key: draw.choice(HUGE)}
        text = json.dumps(changed, default=str)
        (folder / "config.json").write_text(text)
        outcome = refusal(folder, tmp_path / "out")
        tally("config.json", "imported" if outcome is None else "refused")
        assert outcome is None or len(outcome.splitlines()) <= 60, what


@pytest.mark.slow
def test_any_damage_of_a_file_is_refused_in_lines_or_imported(
    whole: Path, folder: Path, tmp_path: Path, faults: int, tally: Tally
) -> None:
    files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    for number in range(faults):
        draw = Random(1000 + number)
        name = draw.choice(files)
        kind, content = damaged_bytes((whole / name).read_bytes(), draw)
        (folder / name).write_bytes(content)
        outcome = refusal(folder, tmp_path / "out")
        tally(name, "imported" if outcome is None else "refused")
        assert outcome is None or len(outcome.splitlines()) <= 60, kind
        shutil.copyfile(whole / name, folder / name)


def test_any_index_is_read_or_refused_in_lines(
    folder: Path, tmp_path: Path, faults: int, tally: Tally, canary: Path
) -> None:
    shards(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    strange = [
        str(canary),
        f"../../{canary.name}",
        "../part.safetensors",
        "/dev/zero",
        "",
        ".",
        "a\0b",
        "\x1b[2J",
        "x" * 5000,
    ]
    for number in range(faults):
        draw = Random(2000 + number)
        _, changed = damaged_values(index, draw)
        if isinstance(changed.get("weight_map"), dict) and draw.random() < 0.5:
            changed["weight_map"][draw.choice(list(index["weight_map"]))] = draw.choice([*strange, *STRANGE])
        (folder / "model.safetensors.index.json").write_text(json.dumps(changed, default=str))
        outcome = refusal(folder, tmp_path / "out")
        tally("index.json", "imported" if outcome is None else "refused")
        assert outcome is None or SECRET not in outcome


FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["link", "link to a link", "pipe", "device", "folder", "sparse", "loop", "empty"])
def test_a_file_that_is_none_of_the_folder_is_refused(
    kind: str, name: str, folder: Path, tmp_path: Path, canary: Path, answer: Run
) -> None:
    file = folder / name
    file.unlink()
    match kind:
        case "link":
            file.symlink_to(canary)
        case "link to a link":
            (folder / "other").symlink_to(canary.parent)
            file.symlink_to(Path("other") / canary.name)
        case "pipe":
            os.mkfifo(file)
        case "device":
            file.symlink_to("/dev/zero")
        case "folder":
            file.mkdir()
        case "sparse":
            with file.open("wb") as stream:
                stream.truncate(20 * 2**30)
        case "loop":
            file.symlink_to(name)
        case _:
            file.touch()
    found = answer("import", folder, "--out", tmp_path / "out")
    assert found.problem is None
    assert SECRET not in found.out + found.err
    if name.startswith("tokenizer") and kind in ("folder", "loop"):  # as if there were no tokenizer
        assert found.status == 0
        return
    assert found.status == 2, found
    assert len(found.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("outside", ["absolute", "above", "link", "pipe"])
def test_an_index_reads_no_file_outside_the_folder(
    outside: str, folder: Path, tmp_path: Path, canary: Path, answer: Run
) -> None:
    target = tmp_path / "outside.safetensors"
    shutil.copyfile(folder / "model.safetensors", target)
    if outside == "pipe":
        os.mkfifo(folder / "within.safetensors")
    else:
        (folder / "within.safetensors").symlink_to(target)
    name = {"absolute": str(target), "above": f"../{target.name}"}.get(outside, "within.safetensors")
    found = answer("import", shards(folder, first=name), "--out", tmp_path / "out")
    assert (found.status, found.problem) == (2, None)
    assert "not inside the folder" in found.err or "points outside the folder" in found.err or "is a pipe" in found.err


def test_the_links_of_the_hub_cache_are_followed(whole: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in whole.iterdir():
        shutil.copyfile(file, blobs / file.stem)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.stem)
    write_folder(read_folder(snapshot), tmp_path / "out")


@pytest.mark.parametrize(
    "vocabulary", [{"a": 10**9}, {"a": -1}, {"a": "x"}, {"a": None}, {"a": 2**70}, {"a": 1.5}, {"a": True}]
)
def test_token_ids_that_would_fill_the_memory_are_refused(
    vocabulary: dict[str, Any], folder: Path, tmp_path: Path, answer: Run
) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"] = vocabulary
    (folder / "tokenizer.json").write_text(json.dumps(content))
    found = answer("import", folder, "--out", tmp_path / "out")
    assert (found.status, found.problem) == (2, None)


def test_names_of_tensors_are_printed_without_their_control_characters(
    folder: Path, answer: Run, tmp_path: Path
) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["a\x1b[31m\nfake: ok"] = tensors.pop("lm_head.weight")
    tensors[f"model.layers.{'9' * 5000}.mlp.up_proj.weight"] = tensors["model.norm.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    found = answer("import", folder, "--out", tmp_path / "out")
    assert (found.status, found.problem) == (2, None)
    assert "no rule of the family reads this tensor" in found.err


def test_layers_are_counted_before_they_are_built(folder: Path, answer: Run, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for depth in (10**9, 1000, 1e9, -1, "3"):
        (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": depth}))
        found = answer("import", folder, "--out", tmp_path / "out")
        assert (found.status, found.problem) == (2, None)
        assert "layers, but the folder has only 21 tensors" in found.err or "must be a whole number" in found.err


@pytest.mark.slow
def test_a_tokenizer_is_compared_in_bounded_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_tokenizer, "MEMORY", 2**26)
    with pytest.raises(DataError, match=r"^tokenizer\.json: cannot be used: ") as raised:
        hub_tokenizer.verify_copy(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_a_pattern_that_never_ends_stops_no_command(folder: Path, answer: Run, tmp_path: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    bomb = {"type": "Split", "pattern": {"Regex": "(\\w+\\s?)+$|(.+.+)+y"}, "behavior": "Isolated", "invert": False}
    (folder / "tokenizer.json").write_text(json.dumps(content | {"pre_tokenizer": bomb}))
    assert answer("import", folder, "--out", tmp_path / "imported").status == 0
    found = answer("export", tmp_path / "imported", "--to", "hf", "--out", tmp_path / "exported")
    assert found.status == 1  # as for any exported folder that differs; the reason is on stdout
    assert "tokenizer.json: cannot be used" in found.out
    assert "Traceback" not in found.out + found.err
    assert not (tmp_path / "exported").exists()
