"""Which folder `fit` trains in, and which command may be repeated after any stop."""

from collections.abc import Callable
from pathlib import Path

import pytest

from blockformer.assembly.checkpoint import read_metadata
from blockformer.cli.main import main
from blockformer.errors import UserError
from blockformer.training.run_folder import RunSettings, default_name
from tests.training.test_resume import QUIET, crash_after, figures, same, state

Fit = Callable[..., Path]
STEPS = ["--trainer.max_steps", "6", "--trainer.val_check_interval", "3", "--run.save_every", "4"]
LAST = ["--ckpt_path", "last"]


@pytest.fixture(scope="module")
def whole(fit: Fit) -> Path:
    """A run that nothing stopped."""
    return fit(*STEPS, name="undisturbed")


@pytest.mark.parametrize("repeated", [["the same"], [*LAST, "the same"], LAST], ids=["same", "same and last", "last"])
@pytest.mark.parametrize("step", [2, 5])
def test_a_command_recovers_before_and_after_the_first_checkpoint(
    fit: Fit,
    arguments: list[str],
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    repeated: list[str],
    step: int,
) -> None:
    name = f"recovers-{step}-{len(repeated)}-{repeated[0][:1]}"
    same_command = "the same" in repeated
    options = [item for item in repeated if item != "the same"]
    first = [*options, *STEPS] if same_command else STEPS
    with monkeypatch.context() as patch:
        crash_after(step, patch)
        with pytest.raises(MemoryError):
            fit(*first, name=name)
    capsys.readouterr()
    given = [*arguments, *STEPS] if same_command else QUIET
    folder = fit(*options, name=name, given=given)
    printed = capsys.readouterr().out
    assert ("which starts again; its earlier files are in" in printed) == (step == 2)
    assert ("holds a run with the same settings, which continues" in printed) == (step == 5 and not options)
    assert (folder / "attempt-1" / "metrics.jsonl").is_file() == (step == 2)
    assert figures(folder) == figures(whole)
    assert same(state(folder), state(whole))


@pytest.mark.slow
def test_the_safe_command_may_be_given_first_and_last(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fit(*LAST, "--trainer.max_steps", "2", name="safe")
    assert f"{folder} has no checkpoint yet: the run begins at step 0" in capsys.readouterr().out
    draft = folder / "checkpoints" / ".last.ckpt.0a1b2c3d.tmp"
    draft.write_bytes(b"half of a checkpoint")
    fit(*LAST, "--trainer.max_steps", "2", name="safe")
    assert f"nothing to do: {folder} has made its 2 steps" in capsys.readouterr().out
    assert not draft.exists()


def test_other_settings_do_not_continue_a_run_by_its_name_alone(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        crash_after(5, patch)
        with pytest.raises(MemoryError):
            fit(*STEPS, name="others")
    with pytest.raises(UserError, match="holds a run already: continue it with --ckpt_path last"):
        fit(*STEPS, "--optimizer.lr", "1e-4", name="others")


@pytest.mark.slow
def test_last_is_the_best_checkpoint_until_the_last_is_written(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        crash_after(5, patch)
        with pytest.raises(MemoryError):
            fit(*STEPS, "--run.save_every", "0", name="unsaved")
    folder = fit(*LAST, *QUIET, name="unsaved", given=[])
    assert [row["step"] for row in figures(folder)] == [1, 2, 3, 3, 4, 5, 6, 6]


@pytest.mark.slow
def test_what_a_run_has_beyond_an_earlier_checkpoint_is_kept(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fit("--trainer.max_steps", "3", "--optimizer.schedule", "constant", name="back")
    checkpoints, rows = folder / "checkpoints", figures(folder)
    (checkpoints / "last.ckpt").rename(checkpoints / "early.ckpt")
    more = ["--trainer.max_steps", "5", *QUIET]
    fit("--ckpt_path", str(checkpoints / "early.ckpt"), *more, name="back", given=[])
    assert [row["step"] for row in figures(folder)][-1] == 5
    fit("--ckpt_path", str(checkpoints / "early.ckpt"), "--trainer.max_steps", "4", *QUIET, name="back", given=[])
    assert read_metadata(checkpoints / "last.step-5.ckpt")["step"] == 5
    assert (folder / "metrics.step-5.jsonl").is_file()
    assert [row["step"] for row in figures(folder)] == [*(row["step"] for row in rows), 4, 4]
    assert f"its newest state is kept in {checkpoints / 'last.step-5.ckpt'}" in capsys.readouterr().out


def test_a_run_without_checkpoint_or_recipe_is_unknown(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--run.root", str(runs), "--run.name", "nowhere", *LAST]) == 2
    assert "nowhere/checkpoints/last.ckpt: there is no such checkpoint" in capsys.readouterr().err
    assert not (runs / "nowhere").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/tmp", "a\nb", "a\x1b[2Jb", "\ud800", "x" * 201, 5, ["a"]])
def test_a_name_is_that_of_a_folder(name: object) -> None:
    with pytest.raises(UserError, match=r"^run\.name .*must be "):
        RunSettings(name=name)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("variant", ["../..", "/etc/passwd", "", "a\nb", "x" * 500, "\x1b[2J"])
def test_a_folder_named_after_a_variant_lies_in_the_root(variant: str) -> None:
    name = default_name(variant)
    assert RunSettings(name=name).name == name
    assert not name.startswith(".")
