from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from blockformer.assembly.checkpoint import model_weights, read_checkpoint
from blockformer.training.callbacks import MetricsLogger
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.loggers.sent_rows import CLOCKS
from tests.training.wandb_log import history

Fit = Callable[..., Path]
_NUMBERS = count()
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--run.wandb", "disabled"]


def figures(folder: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if key not in CLOCKS} for row in read_rows(folder / "metrics.jsonl")
    ]


def state(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return model_weights(read_checkpoint(folder / "checkpoints" / f"{name}.ckpt"))


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def crash_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies after it has reported this step and before anything else."""
    report = MetricsLogger.after_step

    def dying(self: MetricsLogger, trainer: Any, module: Any, now: int) -> None:
        report(self, trainer, module, now)
        if now == step:
            raise MemoryError("crashed")

    monkeypatch.setattr(MetricsLogger, "after_step", dying)


def steps(accumulate: int) -> list[str]:
    interval = [
        "--trainer.val_check_interval",
        str(3 * accumulate),
        "--trainer.accumulate_grad_batches",
        str(accumulate),
    ]
    return ["--trainer.max_steps", "12", "--run.save_every", "1", *interval]


@pytest.fixture(scope="module", params=[1, 2])
def whole(fit: Fit, request: pytest.FixtureRequest) -> tuple[int, Path]:
    """A run that nothing stopped, through epochs of 11 batches, with the batches that make a step.

    Tests may run in an order in which it is made again.
    """
    return request.param, fit(*steps(request.param), name=f"whole-{request.param}-{next(_NUMBERS)}")


@pytest.mark.parametrize("step", [4, 7, *(pytest.param(step, marks=pytest.mark.slow) for step in (2, 6, 12))])
def test_a_run_that_crashed_continues_exactly(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, whole: tuple[int, Path], step: int
) -> None:
    accumulate, unbroken = whole
    name = f"broken-{accumulate}-{step}"
    with monkeypatch.context() as patch:
        crash_after(step, patch)
        with pytest.raises(MemoryError):
            fit(*steps(accumulate), name=name)
    broken = fit("--ckpt_path", "last", *QUIET, name=name, given=[])
    assert figures(broken) == figures(unbroken)
    assert same(state(broken), state(unbroken))


@pytest.mark.slow
def test_wandb_gets_each_row_of_a_run_that_died_once(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """It died at step 7, two steps after its last checkpoint, and again at step 6, before it had passed that step."""
    tables = ["--evaluations", '{"read": {"type": "samples", "prompts": ["def "], "every": 1, "max_new_tokens": 4}}']
    given = ["--trainer.max_steps", "9", "--run.save_every", "5", "--run.wandb", "offline", *tables]
    for step, again in (7, given), (6, ["--ckpt_path", "last"]):
        with monkeypatch.context() as patch:
            crash_after(step, patch)
            with pytest.raises(MemoryError):
                fit(*again, name="twice", **({} if again is given else {"given": []}))
    folder = fit("--ckpt_path", "last", name="twice", given=[])
    sent = [row for file in sorted(folder.glob("wandb/*run-*/*.wandb")) for row in history(file)]
    assert len([*folder.glob("wandb/*run-*/*.wandb")]) == 3
    plain = [row for row in sent if not any(name.endswith("._type") for name in row)]
    own = [{name: value for name, value in row.items() if name not in CLOCKS and name[0] != "_"} for row in plain]
    assert sorted(sorted(row.items()) for row in own) == sorted(sorted(row.items()) for row in figures(folder))
    assert sorted(row["step"] for row in sent if row not in plain) == [*range(1, 10)]


@pytest.mark.slow
def test_a_longer_run_continues_a_finished_one(fit: Fit) -> None:
    constant = ["--optimizer.schedule", "constant", "--trainer.val_check_interval", "4"]
    whole = fit("--trainer.max_steps", "14", *constant, name="long")
    fit("--trainer.max_steps", "8", *constant, name="extended")
    extended = fit("--ckpt_path", "last", "--trainer.max_steps", "14", *QUIET, name="extended", given=[])
    assert same(state(extended), state(whole))
    assert [row["step"] for row in figures(extended)] == [row["step"] for row in figures(whole)]


@pytest.mark.slow
def test_what_is_said_when_continuing_overrules_the_checkpoint(fit: Fit) -> None:
    fit("--trainer.max_steps", "4", "--optimizer.schedule", "constant", name="slower")
    folder = fit(
        "--ckpt_path", "last", "--trainer.max_steps", "6", "--optimizer.lr", "1e-5", *QUIET, name="slower", given=[]
    )
    rates = {row["step"]: row["learning_rate"] for row in figures(folder) if "learning_rate" in row}
    assert rates[4] == 1e-3
    assert rates[6] == 1e-5


@pytest.mark.slow
def test_how_often_a_run_validates_does_not_change_what_it_learns(fit: Fit) -> None:
    often = fit("--trainer.max_steps", "6", "--trainer.val_check_interval", "1", name="often")
    never = fit("--trainer.max_steps", "6", "--trainer.limit_val_batches", "0", name="never")
    assert same(state(often), state(never))


def test_a_fresh_run_does_not_move_into_the_folder_of_another(fit: Fit) -> None:
    from blockformer.errors import UserError

    folder = fit("--trainer.max_steps", "2", name="taken")
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"holds a run already: continue it with --ckpt_path last"):
        fit("--trainer.max_steps", "2", name="taken")
    assert (folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_refused_by_name_of_the_difference(fit: Fit, arguments: list[str]) -> None:
    from blockformer.assembly.checkpoint import LoadError

    fit("--trainer.max_steps", "2", name="other")
    with pytest.raises(LoadError, match=r"decoder\.depth is 1 in the checkpoint and 3 in this run"):
        fit("--ckpt_path", "last", "--recipe.decoder.depth", "3", name="other")


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_and_the_whole_one_beside_it_named(fit: Fit) -> None:
    from blockformer.assembly.checkpoint import LoadError

    folder = fit("--trainer.max_steps", "4", "--trainer.val_check_interval", "2", name="cut")
    last = folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-5000])
    with pytest.raises(LoadError, match=r"last.ckpt: is truncated.*best.ckpt \(step 4\) is intact"):
        fit("--ckpt_path", "last", *QUIET, name="cut", given=[])
    fit("--ckpt_path", "best", "--trainer.max_steps", "5", *QUIET, name="cut", given=[])
    assert figures(folder)[-1]["step"] == 5
