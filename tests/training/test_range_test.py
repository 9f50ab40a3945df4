"""`find-lr`: the curve of a learning-rate range test, its suggestion, and what it leaves."""

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from blockformer.cli.main import main
from blockformer.training.callbacks.range_test import RangeTest
from blockformer.training.learning_rate_curve import LearningRateCurve
from blockformer.training.loggers.file_logger import read_rows
from tests.conftest import last_of_each

SHORT = ["--from", "1e-5", "--to", "1", "--steps", "20"]


def rates(lowest: float, highest: float, steps: int) -> list[float]:
    return [lowest * (highest / lowest) ** (step / (steps - 1)) for step in range(steps)]


def descent(curvatures: Sequence[float], tried: Sequence[float], noise: float = 0.0) -> LearningRateCurve:
    """Gradient descent on the sum of c x^2 / 2, which is stable below 2 / max(c), until the curve says it diverged."""
    draw, x, losses = random.Random(0), [1.0] * len(curvatures), list[float]()
    for rate in tried:
        losses.append(sum(c * value**2 / 2 for c, value in zip(curvatures, x, strict=True)) + draw.gauss(0, noise))
        x = [value * (1 - rate * c) for c, value in zip(curvatures, x, strict=True)]
        curve = LearningRateCurve(tried[: len(losses)], losses, len(tried))
        if curve.diverged:
            return curve
    return LearningRateCurve(tried, losses, len(tried))


@pytest.mark.parametrize("best", [1e-4, 1e-2, 1.0])
def test_the_suggestion_is_the_best_rate_of_a_quadratic_but_for_its_order_of_magnitude(best: float) -> None:
    curve = descent([1 / best, 0.5 / best, 0.2 / best], rates(best * 1e-4, best * 1e3, 120), noise=0.01 / best)
    assert curve.suggestion is not None
    assert best / 20 < curve.suggestion < 2 * best
    assert curve.diverged
    assert len(curve.losses) < 120  # stopped before the highest rate
    assert curve.rates[-1] > 2 * best  # and not before the rate at which it is unstable
    assert curve.remarks() == []


@pytest.mark.parametrize("last", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_curve(last: float) -> None:
    falling = [5 - 0.1 * step for step in range(30)]
    curve = LearningRateCurve(rates(1e-4, 1e-1, 31), [*falling, last], 100)
    assert not LearningRateCurve(curve.rates[:30], falling, 100).diverged
    assert curve.diverged
    assert len(curve.smoothed) == 30
    assert curve.smoothed == pytest.approx(falling)  # a straight line is smoothed to itself, also at its ends
    assert json.loads(json.dumps(curve.rows()[:30]))[-1]["loss"] == falling[-1]
    assert curve.rows()[30]["smoothed"] is None


def test_a_loss_that_rises_after_a_long_fall_has_diverged_only_above_its_first_value() -> None:
    fine_tuned = [1e-1, *[1e-3] * 40, *[1e-2] * 20]
    assert not LearningRateCurve(rates(1e-6, 1, 61), fine_tuned, 100).diverged
    assert LearningRateCurve(rates(1e-6, 1, 81), [*fine_tuned, *[0.2] * 20], 100).diverged


def test_nothing_is_suggested_where_the_loss_does_not_fall() -> None:
    for seed in range(10):
        draw = random.Random(seed)
        flat = [5 + draw.gauss(0, 0.1) for _ in range(100)]
        assert LearningRateCurve(rates(1e-9, 1e-7, 100), flat, 100).suggestion is None
        assert LearningRateCurve(rates(1e-9, 1e-7, 20), flat[:20], 20).suggestion is None
    assert LearningRateCurve(rates(1e-4, 1, 100), [5 + 0.01 * step for step in range(100)], 100).suggestion is None
    assert LearningRateCurve([1e-4], [math.nan], 100).suggestion is None


def test_a_range_that_is_too_high_or_too_low_is_remarked_upon() -> None:
    (high,) = descent([1.0], rates(0.5, 50, 100)).remarks()
    assert "lower --from" in high
    (low,) = descent([1.0], rates(1e-5, 1e-2, 100)).remarks()
    assert "the loss is lowest near the highest rate" in low
    assert "raise --to" in low


def test_rates_grow_by_one_factor_from_the_lowest_to_the_highest() -> None:
    tested = RangeTest(1e-5, 1e-1, 5)._rates
    assert tested == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1])


@pytest.fixture
def find(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Run `find-lr` in this process, in an empty folder; give the curve that it writes to a file elsewhere."""
    folder, out = tmp_path / "here", tmp_path / "curve.json"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(*more: str, status: int = 0) -> dict[str, Any]:
        assert main(["find-lr", *last_of_each([*arguments, *SHORT, "--out", str(out), *more])]) == status
        assert not list(folder.iterdir())
        return json.loads(out.read_text())

    return run


def losses(found: dict[str, Any]) -> list[float]:
    return [row["loss"] for row in found["curve"]]


@pytest.mark.slow
def test_two_tests_give_the_same_curve_and_leave_nothing(
    find: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    found = find("--optimizer.lr", "3e-2", "--trainer.max_steps", "3", "--run.name", "no-such-run")
    output = capsys.readouterr().out
    assert found == find("--optimizer.schedule", "wsd", "--optimizer.warmup_steps", "7")  # nor the length and schedule
    assert [row["learning_rate"] for row in found["curve"]] == pytest.approx(rates(1e-5, 1, 20)[: len(losses(found))])
    assert f"suggested, where the loss falls fastest: --optimizer.lr {found['suggestion']:.2g}\n" in output
    assert 1e-4 < found["suggestion"] < 1
    other = find("--seed_everything", "1")
    assert losses(other) != losses(found)


def test_the_first_step_is_that_of_a_run(find: Callable[..., dict[str, Any]], fit: Callable[..., Path]) -> None:
    first, second = losses(find("--from", "1e-2", "--to", "1"))[:2]
    constant = ["--optimizer.schedule", "constant", "--optimizer.warmup_steps", "0", "--optimizer.lr", "1e-2"]
    rows = read_rows(fit(*constant, "--trainer.max_steps", "2", name="constant") / "metrics.jsonl")
    assert [row["train/loss"] for row in rows if "train/loss" in row] == [first, second]


@pytest.mark.slow
def test_groups_keep_their_ratio_and_frozen_parameters_stay(find: Callable[..., dict[str, Any]]) -> None:
    plain = losses(find())
    alike = find("--optimizer.lr", "0.5", "--optimizer.groups", '[{"slot": "embedding", "lr": 0.5}]')
    assert losses(alike) == pytest.approx(plain, rel=1e-4)
    apart = find("--optimizer.lr", "0.5", "--optimizer.groups", '[{"slot": "embedding", "lr": 0.05}]')
    assert losses(apart)[2] != plain[2]
    assert losses(find("--optimizer.freeze", "embedding.*")) != plain


def test_a_diverging_test_stops_early(find: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--optimizer.type", "sgd", "--trainer.gradient_clip_val", "0", "--from", "1e-2", "--to", "1e6"]
    found = find(*options, "--steps", "60")
    assert found["diverged"]
    assert len(found["curve"]) < 60
    assert f"stopped after step {len(found['curve'])} of 60: the loss has diverged" in capsys.readouterr().out


@pytest.mark.slow
def test_accumulated_batches_are_one_step(find: Callable[..., dict[str, Any]]) -> None:
    still = ("--recipe.embedding.dropout", "0")
    whole = find(*still, "--data.batch_size", "16")
    parts = find(*still, "--data.batch_size", "8", "--trainer.accumulate_grad_batches", "2")
    assert losses(parts)[:10] == pytest.approx(losses(whole)[:10], rel=1e-4)


@pytest.mark.slow
def test_a_test_may_start_from_a_trained_model(find: Callable[..., dict[str, Any]], fit: Callable[..., Path]) -> None:
    trained = fit("--trainer.max_steps", "30", "--optimizer.lr", "1e-2", name="trained")
    warm = find("--init-from", str(trained), "--steps", "60")
    assert losses(warm)[0] < losses(find())[0] - 0.5


def test_nothing_is_suggested_by_rates_that_change_nothing(
    find: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert find("--from", "1e-20", "--to", "1e-19", status=1)["suggestion"] is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("no rate can be suggested: the loss does not fall")


def test_the_curve_as_csv_has_the_same_rows() -> None:
    curve = LearningRateCurve(rates(1e-4, 1, 31), [*(5 - 0.1 * step for step in range(30)), math.inf], 100)
    head, *rows = curve.as_csv().splitlines()
    assert head == ",".join(curve.as_dict()["curve"][0])
    read = [[float(value) if value else None for value in row.split(",")] for row in rows]
    assert read == [list(row.values()) for row in curve.as_dict()["curve"]]


WRONG = {
    "--from 0": "--from 0.0: a learning rate is a number above 0",
    "--from nan": "--from: expected float, not nan",
    "--from 1e-2 --to 1e-3": "--from 0.01 must be below --to 0.001",
    "--from low": "--from: expected float, not low",
    "--steps 3": "--steps 3: a curve needs at least 10 steps",
    "--steps 1000000000": "--steps 1000000000: a curve has at most 100,000 steps",
    "--out /dev/null/curve.csv": "/dev/null: cannot be written: File exists; name another folder with --out",
    "--steps many": "--steps: expected int, not many",
    "--out curve.txt": "--out curve.txt: must be a file whose name ends in .csv or .json",
    "--form 1e-5": "there is no option --form; did you mean --from?",
    "--optimizer.lr -1": "optimizer: lr must be above 0",
    "--trainer.fast_dev_run true": "--trainer.fast_dev_run: find-lr writes no run anyway",
}


@pytest.mark.parametrize("more", WRONG)
def test_a_mistake_ends_in_one_clear_line(
    more: str,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["find-lr", *last_of_each([*arguments, *SHORT, *more.split()])]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert WRONG[more] in line
    assert not list(tmp_path.iterdir())


def test_a_run_that_continues_is_refused(
    fit: Callable[..., Path], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(fit("--trainer.max_steps", "2", name="short") / "checkpoints" / "last.ckpt")
    capsys.readouterr()
    assert main(["find-lr", *arguments, "--ckpt_path", checkpoint]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("--ckpt_path: find-lr tests the start of a run")


def test_help_names_only_options_that_exist(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find-lr", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {option} " in shown for option in ("--from", "--to", "--steps", "--out"))


@pytest.mark.slow
def test_two_processes_test_like_one(
    start: Callable[..., Any], find: Callable[..., dict[str, Any]], arguments: list[str], tmp_path: Path
) -> None:
    still = ["--recipe.embedding.dropout=0", "--optimizer.eps", "1e-4"]
    alone, out = find(*still), tmp_path / "two.json"
    given = last_of_each([*arguments, *SHORT, *still, "--out", str(out)])
    process = start("find-lr", *given, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    together = json.loads(out.read_text())
    assert losses(together)[:15] == pytest.approx(losses(alone)[:15], rel=1e-3)
    assert together["suggestion"] == pytest.approx(alone["suggestion"], rel=0.5)
    assert output.count("suggested") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "highest"), [("adamw", "1"), ("sgd", "1e3"), ("lion", "1"), ("muon", "10")])
def test_a_run_at_the_suggested_rate_beats_runs_far_from_it(
    optimizer: str, highest: str, find: Callable[..., dict[str, Any]], fit: Callable[..., Path]
) -> None:
    suggested = find("--optimizer.type", optimizer, "--steps", "100", "--from", "1e-6", "--to", highest)["suggestion"]
    final: list[float] = []
    for factor in (1, 1 / 30, 300):
        options = [
            "--optimizer.type",
            optimizer,
            "--optimizer.lr",
            str(suggested * factor),
            "--trainer.max_steps",
            "60",
        ]
        rows = read_rows(fit(*options, name=f"{optimizer}-{factor:.2f}") / "metrics.jsonl")
        final.append([row["val/loss"] for row in rows if "val/loss" in row][-1])
    assert final[0] < min(final[1:])
