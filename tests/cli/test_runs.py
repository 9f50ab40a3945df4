"""`blockformer runs`, and `blockformer diff` of two runs."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blockformer.cli.main import main
from registry import load_recipe


def run(root: Path, name: str, kv_heads: int = 2, **changes: Any) -> Path:
    """The files of a finished run, as `fit` leaves them."""
    folder = root / name
    folder.mkdir(parents=True)
    recipe = load_recipe("tiny_decoder", {"decoder.layer.mixer.kv_heads": kv_heads})
    facts = {"recipe": recipe.dump(), "recipe_hash": recipe.hash, "variant": "tiny", "trainer": {"total_steps": 10}}
    facts |= {"optimizer": {"lr": 0.1 * kv_heads}, "seed": 0} | changes
    (folder / "facts.json").write_text(json.dumps(facts))
    rows = [{"step": step, "val/loss": 3.0 / kv_heads + step} for step in (5, 10)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.utime(folder / "metrics.jsonl", (kv_heads, kv_heads))
    return folder


def listed(root: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main(["runs", "--root", str(root), "--format", "json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def names(root: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    return [one["name"] for one in listed(root, capsys, *arguments)]


def test_runs_are_chosen_and_sorted_by_any_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kv_heads in (1, 2, 4):
        run(tmp_path, f"kv{kv_heads}", kv_heads)
    assert names(tmp_path, capsys) == ["kv4", "kv2", "kv1"]  # the newest first
    assert names(tmp_path, capsys, "--where", "decoder.layer.mixer.kv_heads=2") == ["kv2"]
    assert names(tmp_path, capsys, "--where", "optimizer.lr=0.1", "--where", "seed=0") == ["kv1"]
    glu = ["--where", "decoder.layer.feedforward=glu"]
    assert names(tmp_path, capsys, *glu, "--sort", "name") == ["kv1", "kv2", "kv4"]
    assert names(tmp_path, capsys, "--sort", "val/loss") == ["kv4", "kv2", "kv1"]
    assert names(tmp_path, capsys, "--sort", "val/loss", "--reverse") == ["kv1", "kv2", "kv4"]
    assert names(tmp_path, capsys, "--where", "seed=false") == []


def test_a_list_says_state_step_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, "whole")
    stopped = run(tmp_path, "stopped", trainer={"total_steps": 20})
    diverged = run(tmp_path, "diverged", trainer={"total_steps": 20})
    (diverged / "diverged.json").write_text("{}")
    going = run(tmp_path, "going", trainer={"total_steps": 20})
    (going / "run.lock").write_text("{}")
    (stopped / "run.lock").write_text("{}")
    long_ago = time.time() - 1000
    os.utime(stopped / "run.lock", (long_ago, long_ago))
    found = {one["name"]: one for one in listed(tmp_path, capsys)}
    assert {name: of["state"] for name, of in found.items()} == {
        "whole": "finished",
        "stopped": "stopped",
        "diverged": "diverged",
        "going": "running",
    }
    assert (found["whole"]["step"], found["whole"]["steps"], found["whole"]["val/loss"]) == (10, 10, 11.5)
    assert main(["runs", "--root", str(tmp_path), "--sort", "optimizer.lr"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "variant", "recipe", "state", "step", "val/loss", "optimizer.lr", "when"]
    assert any(line.split()[:5] == ["whole", "tiny", found["whole"]["recipe"], "finished", "10/10"] for line in lines)
    assert main(["runs", "--root", str(tmp_path), "--format", "markdown"]) == 0
    assert capsys.readouterr().out.startswith("| name | variant |")


def test_foreign_and_damaged_folders_are_listed_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, "whole")
    contents = {
        "photos": {"a.jpg": "x"},
        "cut": {"facts.json": '{"recipe": '},
        "deep": {"facts.json": "[" * 100_000},
        "other": {"facts.json": "[1]"},
        "lost": {"metrics.jsonl": '{"step": 1}\n'},
        "es\x1bcape": {"facts.json": "\x00"},
        "study": {"plan.json": "{}", "runs/x": ""},
        "unbegun": {"config.yaml": "seed_everything: 0\n", "log.txt": "", "run.lock": ""},
        "beginning": {"config.yaml": "seed_everything: 0\n", "run.lock": "{}"},
    }
    for name, files in contents.items():
        for file, text in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "twisted").mkdir()
    (tmp_path / "twisted" / "facts.json").symlink_to("facts.json")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "metrics.jsonl").mkdir()
    (tmp_path / "odd" / "facts.json").write_text((tmp_path / "whole" / "facts.json").read_text())
    assert main(["runs", "--root", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    said = {line.partition("  ")[0]: line.partition("  ")[2] for line in lines[2:]}
    assert said["photos"] == said["twisted"] == "no run: it has no configuration and no metrics"
    assert said["cut"] == f"damaged: {tmp_path}/cut/facts.json: is not JSON"
    assert said["deep"].endswith("is not JSON")
    assert said["other"].endswith("is not the configuration of a run")
    assert "lost/facts.json: cannot be read" in said["lost"]
    assert said["es\\x1bcape"].startswith("damaged")
    assert said["unbegun"].split("  ")[0] == "stopped: before its first step; see its log.txt"
    assert said["beginning"].split("  ")[0] == "running: before its first step; see its log.txt"
    assert said["study"] == f"study: its runs are in {tmp_path}/study/runs"
    assert "not a regular file" in said["odd"]
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--where", "optimizer.lrr=1"], "no run has optimizer.lrr; did you mean 'optimizer.lr'?"),
        (["--sort", "val/los"], "no run has val/los; did you mean 'val/loss'?"),
        (["--where", "seed"], "--where seed: must have the form KEY=VALUE"),
        (["--where", "seed=[1"], "--where seed: is not YAML"),
    ],
)
def test_a_wrong_key_is_answered_with_the_one_that_was_meant(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, "whole")
    assert main(["runs", "--root", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_refused_and_an_empty_one_has_no_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "--root", str(tmp_path / "x")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert main(["runs", "--root", str(tmp_path), "--where", "seed=1"]) == 0
    assert capsys.readouterr().out == "no runs\n"


@pytest.mark.slow
def test_two_runs_differ_in_architecture_data_and_settings(
    fit: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one = fit("--trainer.max_steps", "1", name="one")
    other = fit(
        *("--trainer.max_steps", "1", "--optimizer.lr", "0.1", "--data.validation", "0.2"),
        *("--recipe.decoder.layer.mixer.kv_heads", "1"),
        name="other",
    )
    capsys.readouterr()
    assert main(["diff", str(one), str(other), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [change["key"] for change in found["changes"]] == ["kv_heads"]
    settings = {row["key"]: (row["a"], row["b"]) for row in found["settings"]}
    assert settings["optimizer.lr"] == (0.001, 0.1)
    assert set(settings) == {"optimizer.lr", "data.validation"}
    assert {"sha256", "validation.bytes"} <= {row["key"] for row in found["data"]}
    assert found["versions"] == []
    assert {row["key"] for row in found["figures"]} >= {"val/loss"}
    assert main(["diff", str(one), str(other)]) == 0
    text = capsys.readouterr().out
    assert "settings\n  optimizer.lr: 0.001 -> 0.1\n" in text.replace("  data.validation: 0.1 -> 0.2\n", "")
    assert text.endswith("the same versions\n")
    assert main(["diff", str(one), "tiny_decoder"]) == 0
    assert "versions" not in capsys.readouterr().out

    (other / "facts.json").write_text("{")
    assert main(["diff", str(one), str(other)]) == 2
    assert capsys.readouterr().err == f"{other}/facts.json: is not JSON\n"
