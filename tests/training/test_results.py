"""Where `validate`, `test` and `predict` write, and data that change between two parts of a run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from blockformer.assembly.checkpoint import read_metadata
from blockformer.cli.main import main
from blockformer.training.callbacks import Predictions
from tests.training.test_resume import QUIET

Fit = Callable[..., Path]
PLAIN = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]


@pytest.fixture(scope="module")
def trained(fit: Fit) -> Path:
    return fit("--trainer.max_steps", "2", name="tiny_decoder")


@pytest.fixture
def outside(trained: Path, tmp_path: Path) -> Path:
    """A checkpoint that lies in no run's folder."""
    return Path(shutil.copy(trained / "checkpoints" / "last.ckpt", tmp_path / "mine.ckpt"))


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["validate", "predict"])
def test_a_checkpoint_outside_a_run_has_a_place_of_its_own(
    outside: Path, runs: Path, trained: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(runs)
    assert main([verb, "--ckpt_path", str(outside), *PLAIN]) == 0
    name = "predictions.jsonl" if verb == "predict" else "evaluations.jsonl"
    assert [path.name for path in outside.with_name("mine.results").iterdir()] == [name]
    assert content(runs) == before
    out = outside.parent / "there"
    assert main([verb, "--ckpt_path", str(trained / "checkpoints" / "last.ckpt"), "--out", str(out), *PLAIN]) == 0
    assert [path.name for path in out.iterdir()] == [name]
    assert content(runs) == before


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
@pytest.mark.parametrize("key", ["name", "root"])
def test_a_run_that_has_no_effect_is_refused(
    outside: Path, trained: Path, verb: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for checkpoint in (outside, trained / "checkpoints" / "last.ckpt"):
        assert main([verb, "--ckpt_path", str(checkpoint), f"--run.{key}", "other", *PLAIN]) == 2
        assert f"run.{key} other has no effect on {verb}" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    outside: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outside.with_name("mine.results").write_text("")
    command = [verb, "--ckpt_path", str(outside), "--data.files", str(outside.parent / "absent.txt"), *PLAIN]
    assert main(command) == 2
    assert "mine.results: cannot be written" in capsys.readouterr().err
    assert main([*command, "--out", str(outside.parent / "unused")]) == 2
    assert "absent.txt: no such file" in capsys.readouterr().err
    assert not (outside.parent / "unused").exists()


def test_predictions_appear_whole_or_not_at_all(outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["predict", "--ckpt_path", str(outside), "--out", str(tmp_path / "out"), *PLAIN]
    assert main(command) == 0
    before = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    assert all(json.loads(line)["target"] for line in before.splitlines())
    write = Predictions.write_on_batch_end

    def dying(*arguments: object) -> None:
        write(*arguments)  # type: ignore[arg-type]
        raise MemoryError

    monkeypatch.setattr(Predictions, "write_on_batch_end", dying)
    assert main(command) == 1
    assert content(tmp_path / "out") == {tmp_path / "out" / "predictions.jsonl": before}


@pytest.mark.slow
def test_data_that_have_changed_are_refused_and_recorded(
    fit: Fit, arguments: list[str], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], runs: Path
) -> None:
    mine = Path(shutil.copy(text, tmp_path / "mine.txt"))
    given = [f"--data.files={mine}" if item.startswith("--data.files") else item for item in arguments]
    folder = fit("--trainer.max_steps", "2", "--optimizer.schedule", "constant", name="changing", given=given)
    before, hashes = content(folder), [read_metadata(folder / "checkpoints" / "last.ckpt")["data"]["sha256"]]
    mine.write_text(mine.read_text() + " and more")
    more = ["--ckpt_path", "last", "--trainer.max_steps", "3", *QUIET]
    assert main(["fit", "--run.root", str(runs), "--run.name", "changing", *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"was trained on other data: sha256 {hashes[0][:16]} (text: mine.txt) in the checkpoint and" in line
    assert content(folder) == before
    fit(*more, "--run.other_data", "true", name="changing", given=[])
    facts = json.loads((folder / "facts.json").read_text())
    assert [item["sha256"] for item in facts["earlier_data"]] == hashes
    assert facts["earlier_data"][0]["last_step"] == 2
    assert facts["data"]["sha256"] not in hashes
    fit("--ckpt_path", "last", "--trainer.max_steps", "4", *QUIET, name="changing", given=[])
    metadata = read_metadata(folder / "checkpoints" / "last.ckpt")
    assert metadata["earlier_data"] == facts["earlier_data"]


def test_fewer_steps_than_a_run_has_made_are_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(trained)
    last = trained / "checkpoints" / "last.ckpt"
    assert main(["fit", "--ckpt_path", str(last), "--trainer.max_steps", "1", *QUIET]) == 2
    assert f"nothing to do: {last} is of step 2, and the run has 1 steps" in capsys.readouterr().err
    assert content(trained) == before
