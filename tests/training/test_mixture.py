"""Runs on mixtures: figures of each source, their order after a stop, options that reach into a source."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from blockformer.assembly import load
from blockformer.data.loader import TrainingLoader
from blockformer.data.module import TextData
from blockformer.errors import UserError
from blockformer.studies.documents import document_losses
from blockformer.training.given import Given
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.nested_options import fold_nested
from blockformer.training.objectives import CausalLM
from blockformer.training.score import Score
from tests.conftest import last_of_each
from tests.training.test_resume import crash_after, figures, same, state

Fit = Callable[..., Path]
SHORT = ["--data.length", "32", "--data.batch_size", "8", "--data.validation", "0.2", "--data.test", "0.2"]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, arguments: list[str]) -> list[str]:
    """Two tables, of which the longer one is read less often."""
    folder = tmp_path_factory.mktemp("sources")
    for name, count in (("code", 90), ("prose", 25)):
        rows = [json.dumps({"text": f"{name} {n} {name[0] * (n % 17)}"}) for n in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    sources = {name: {"dataset": "table", "files": str(folder / f"{name}.jsonl")} for name in ("code", "prose")}
    sources["prose"]["weight"] = 2  # type: ignore[assignment]
    without = last_of_each([*arguments, *SHORT])
    place = without.index(next(word for word in without if word.startswith("--data.files=")))
    common = [*without[:place], *without[place + 1 :], "--data.tokenizer", "bytes"]
    chosen = ["--data.dataset", "mixture", "--data.sources", json.dumps(sources), "--trainer.val_check_interval", "3"]
    return last_of_each([*common, *chosen, "--trainer.max_steps", "6", "--run.save_every", "1"])


@pytest.fixture(scope="module")
def whole(fit: Fit, mixed: list[str]) -> Path:
    """A run that nothing stopped."""
    return fit(name="whole", given=mixed)


def _data(run: Path) -> dict[str, Any]:
    return yaml.safe_load((run / "config.yaml").read_text())["data"]


def test_each_source_has_the_figures_that_it_has_alone(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = read_rows(whole / "metrics.jsonl")[-1]
    settings = _data(whole)
    sources, _ = settings.pop("sources"), settings.pop("dataset")
    checkpoint = whole / "checkpoints" / "last.ckpt"
    model, objective, total = (
        load(checkpoint).eval(),
        CausalLM(),
        torch.zeros(6, dtype=torch.float64),
    )
    for name, source in sources.items():
        data = TextData("table", files=source["files"], objective=objective, **settings)
        with torch.no_grad():
            sums = sum(objective(model, batch)[1] for batch in data.loader("validation"))
        assert isinstance(sums, torch.Tensor)
        alone, total = Score.of(sums).metrics(), total + sums
        for figure in ("loss", "bits_per_byte"):
            assert row[f"val/{figure}/{name}"] == pytest.approx(alone[figure], rel=1e-6)
    for figure, value in Score.of(total).metrics().items():
        assert row[f"val/{figure}"] == pytest.approx(value, rel=1e-6)
    losses = document_losses(checkpoint, whole / "config.yaml", "validation")
    assert len(losses["nll"]) == 18 + 5
    assert sum(losses["nll"]) == pytest.approx(Score.of(total).nll, rel=1e-5)


def test_the_lines_of_a_run_name_the_sources(whole: Path) -> None:
    log = (whole / "log.txt").read_text()
    assert "note: in 6 steps the sources are read: code 0." in log
    row = read_rows(whole / "metrics.jsonl")[-1]
    figure = "  ".join(f"loss of {name} {row[f'val/loss/{name}']:.4f}" for name in ("code", "prose"))
    assert f"done: {whole}; validation: " in log
    assert log.splitlines()[-1].endswith(figure)
    trained = [row for row in read_rows(whole / "metrics.jsonl") if "train/loss" in row]
    counts = _epochs(whole, 6)
    assert {key: trained[-1][f"train/epochs/{key}"] for key in counts} == counts
    assert counts["prose"] > 1 > counts["code"]


def _epochs(run: Path, steps: int) -> dict[str, float]:
    data = TextData(**_data(run), objective=CausalLM())
    rows = {name: len(part.samples("train")) for name, part in data.rows.parts.items()}  # type: ignore[union-attr]
    return {"code": steps * 8 / 3 / rows["code"], "prose": steps * 8 * 2 / 3 / rows["prose"]}


def test_a_run_that_crashed_continues_exactly(
    whole: Path, fit: Fit, mixed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        crash_after(4, patch)
        with pytest.raises(MemoryError, match="crashed"):
            fit(name="crashed", given=mixed)
    folder = fit("--ckpt_path", "last", name="crashed", given=["--run.wandb", "disabled"])
    assert same(state(folder), state(whole))
    assert figures(folder) == figures(whole)


def _targets(run: Path, step: int) -> dict[str, int]:
    """Targets of each source in the batch of a step, counted from 1."""
    data = TextData(**_data(run), objective=CausalLM())
    loader = data.loader("train")
    assert isinstance(loader, TrainingLoader)
    batch = loader.batch(step - 1)
    source = batch["index"] % len(data.sources)
    scored = (batch["targets"] != -100).sum(1)
    return {name: int(scored[source == place].sum()) for place, name in enumerate(data.sources)}


@pytest.fixture(scope="module")
def seldom(fit: Fit, mixed: list[str]) -> Path:
    """The same run, which reports every four steps and at the end."""
    return fit("--trainer.log_every_n_steps", "4", name="seldom", given=mixed)


def test_the_training_loss_of_a_source_is_the_mean_over_its_targets_since_the_row_before(
    whole: Path, seldom: Path
) -> None:
    each = {row["step"]: row for row in read_rows(whole / "metrics.jsonl") if "train/loss" in row}
    targets = {step: _targets(whole, step) for step in each}
    for step, row in each.items():
        total = sum(row[f"train/loss/{name}"] * number for name, number in targets[step].items() if number)
        assert total / sum(targets[step].values()) == pytest.approx(row["train/loss"], rel=1e-6)
    rows = {row["step"]: row for row in read_rows(seldom / "metrics.jsonl") if "train/loss" in row}
    for end, steps in ((4, (1, 2, 3, 4)), (6, (5, 6))):
        for name in ("code", "prose"):
            weighed = [(each[step].get(f"train/loss/{name}", 0.0), targets[step][name]) for step in steps]
            mean = sum(loss * number for loss, number in weighed) / sum(number for _, number in weighed)
            assert rows[end][f"train/loss/{name}"] == pytest.approx(mean, rel=1e-6)


def test_a_run_that_crashed_between_two_rows_has_the_same_losses_of_sources(
    seldom: Path, fit: Fit, mixed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        crash_after(6, patch)
        with pytest.raises(MemoryError, match="crashed"):
            fit("--trainer.log_every_n_steps", "4", name="crashed-seldom", given=mixed)
    folder = fit("--ckpt_path", "last", name="crashed-seldom", given=["--run.wandb", "disabled"])
    assert figures(folder) == figures(seldom)


def test_other_weights_need_permission_to_continue(whole: Path, fit: Fit) -> None:
    more = [
        "--ckpt_path",
        str(whole / "checkpoints" / "last.ckpt"),
        "--trainer.max_steps",
        "7",
        "--run.wandb",
        "disabled",
    ]
    changed = [*more, "--data.sources.code.weight", "5"]
    with pytest.raises(UserError, match=r"was trained on other data: sha256 .*--run.other_data true"):
        fit(name="other", given=changed)
    folder = fit("--run.other_data", "true", name="other", given=changed)
    assert _data(folder)["sources"]["code"]["weight"] == 5
    assert _data(folder)["sources"]["prose"] == _data(whole)["sources"]["prose"]


@pytest.mark.slow
def test_two_processes_have_the_figures_of_one(
    whole: Path, mixed: list[str], together: Callable[..., Any], runs: Path
) -> None:
    options = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--run.root", str(runs), "--run.name", "two"]
    process = together("fit", *mixed, *options)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    pairs = zip(read_rows(runs / "two" / "metrics.jsonl"), read_rows(whole / "metrics.jsonl"), strict=True)
    for ours, theirs in pairs:
        assert ours.keys() == theirs.keys()
        for key in (key for key in ours if key.startswith(("val/", "train/epochs"))):
            assert ours[key] == pytest.approx(theirs[key], rel=2e-2 if key.startswith("val") else 1e-12), key


CONFIG = {"data": {"sources": {"code": {"dataset": "table", "weight": 1}, "prose": {"dataset": "docstrings"}}}}


TABLE, PROSE = {"dataset": "table", "weight": 1}, {"dataset": "docstrings"}
FOLDED: list[tuple[list[str], str | None, dict[str, Any]]] = [
    (["--data.sources.code.weight", "3"], None, {"code": TABLE | {"weight": 3}, "prose": PROSE}),
    (["--data.sources.prose={weight: 2}"], None, {"code": TABLE, "prose": {"weight": 2}}),
    (["--data.sources.a.files=[x, y]"], "{a: {dataset: text}}", {"a": {"dataset": "text", "files": ["x", "y"]}}),
    (["--data.sources.new.dataset=text"], "{}", {"new": {"dataset": "text"}}),
]


@pytest.mark.parametrize(("options", "whole", "sources"), FOLDED)
def test_options_reach_into_sources(options: list[str], whole: str | None, sources: dict[str, Any]) -> None:
    named = [] if whole is None else ["--data.sources", whole]
    given = Given(configs=[CONFIG], options=["--x", "1", *options, *named, "--y"])
    given.settings = {} if whole is None else {"data": {"sources": whole}}
    fold_nested(given)
    assert given.options is not None
    assert given.options[:-1] == ["--x", "1", "--y", "--data.sources"]
    assert json.loads(given.options[-1]) == given.value("data.sources") == sources
    assert CONFIG["data"]["sources"]["code"] == TABLE


def test_other_options_stay_as_they_are() -> None:
    given = Given(configs=[CONFIG], options=["--data.sources", "{a: {}}", "--data.length", "5"])
    fold_nested(given)
    assert given.options == ["--data.sources", "{a: {}}", "--data.length", "5"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.sources.code.weight.x=1"], "data.sources.code.weight is 1 and not a mapping of options"),
        (["--data.sources.code.weight"], "--data.sources.code.weight requires a value"),
    ],
)
def test_what_cannot_be_reached_is_refused(options: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        fold_nested(Given(configs=[CONFIG], options=options))
    assert str(raised.value) == message


@pytest.mark.slow
def test_attention_maps_are_drawn_of_a_mixture(fit: Fit, mixed: list[str]) -> None:
    folder = fit("--run.attention_every", "2", "--trainer.max_steps", "2", name="maps", given=mixed)
    assert all(any((folder / "attention" / f"step-{step}").iterdir()) for step in (1, 2))
