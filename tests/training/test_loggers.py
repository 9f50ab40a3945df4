import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb

from blockformer.training.loggers import FileLogger, SafeWandbLogger
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.loggers.sent_rows import SentRows
from blockformer.training.loggers.wandb_logger import by_key, wandb_mode
from tests.training.wandb_log import read_run


@pytest.fixture
def logged_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_rows_are_in_the_file_as_soon_as_they_are_logged(tmp_path: Path) -> None:
    logger = FileLogger(tmp_path)
    logger.log_metrics({"train/loss": 2.5}, 1)
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 1, "train/loss": 2.5}]


def test_csv_holds_the_rows_of_the_jsonl_with_columns_that_came_later(tmp_path: Path) -> None:
    logger = FileLogger(tmp_path)
    logger.log_metrics({"train/loss": 2.5}, 1)
    logger.log_metrics({"val/loss": 2.0}, 1)
    logger.log_metrics({"train/loss": 1.5}, 2)
    with (tmp_path / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["train/loss"] for row in rows] == ["2.5", "", "1.5"]
    assert [row["val/loss"] for row in rows] == ["", "2.0", ""]


def test_rewinding_forgets_later_rows_and_a_line_that_was_cut_off(tmp_path: Path) -> None:
    first = FileLogger(tmp_path)
    for step in (1, 2, 3):
        first.log_metrics({"train/loss": float(step)}, step)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "train/lo')
    again = FileLogger(tmp_path)
    again.rewind(2)
    again.log_metrics({"train/loss": 3.5}, 3)
    assert [row["train/loss"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1.0, 2.0, 3.5]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 4


def test_infinities_are_written_as_json_has_them(tmp_path: Path) -> None:
    FileLogger(tmp_path).log_metrics({"train/perplexity": float("inf")}, 1)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {"step": 1, "train/perplexity": None}


def test_lists_become_mappings_so_that_runs_group_by_their_items() -> None:
    assert by_key({"pattern": ["local", {"type": "global"}]}) == {"pattern": {"0": "local", "1": {"type": "global"}}}


@pytest.mark.usefixtures("logged_out")
def test_wandb_is_offline_unless_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert wandb_mode() == "offline"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert wandb_mode() == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://elsewhere.example")
    assert wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert wandb_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode() == "disabled"


class Refusing:
    """A W&B run that does nothing but raise."""

    id = "x"

    def __getattr__(self, name: str) -> Any:
        raise ConnectionError("no W&B today\nand not tomorrow")


@pytest.mark.parametrize("fails", ["init", "log"])
def test_whatever_wandb_raises_the_run_goes_on(
    fails: str, fit: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def init(**settings: Any) -> Any:
        if fails == "init":
            raise wandb.errors.CommError("no W&B today\nand not tomorrow")
        return Refusing()

    monkeypatch.setattr(wandb, "init", init)
    folder = fit("--trainer.max_steps", "2", "--run.wandb", "offline", name=f"refused-{fails}")
    assert [row["step"] for row in read_rows(folder / "metrics.jsonl")] == [1, 1, 2, 2]
    error = capsys.readouterr().err
    assert error.count("W&B is switched off") == 1
    assert "no W&B today); metrics.jsonl is complete without it" in error


@pytest.mark.usefixtures("logged_out")
def test_an_unreachable_server_leaves_the_run_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    modes: list[str] = []

    def init(mode: str, **settings: Any) -> Any:
        modes.append(mode)
        if mode == "online":
            raise wandb.errors.CommError("timeout")
        return Refusing()

    monkeypatch.setattr(wandb, "init", init)
    SafeWandbLogger(tmp_path, "online").log_hyperparams({})
    assert modes == ["online", "offline"]
    assert "this run is kept offline" in capsys.readouterr().err


@pytest.mark.usefixtures("logged_out")
def test_the_offline_run_holds_recipe_facts_figures_axes_and_artifact(fit: Callable[..., Path]) -> None:
    about = ["--run.group", "heads", "--run.job_type", "study", '--run.tags=["tiny","test"]']
    about += ["--run.about", '{"study": "heads", "learning_rate": 0.1}']
    folder = fit("--trainer.max_steps", "3", "--run.wandb", "auto", *about, name="logged")
    logged = read_run(folder / "wandb")
    assert (logged.run.run_group, logged.run.job_type, sorted(logged.run.tags)) == ("heads", "study", ["test", "tiny"])
    assert logged.run.display_name == "logged"
    assert (logged.config["study"], logged.config["learning_rate"]) == ("heads", 0.1)
    assert json.loads((folder / "facts.json").read_text())["study"] == "heads"
    assert logged.config["recipe"]["decoder"]["layer"]["mixer"]["kv_heads"] == 2
    model = logged.config["model"]
    assert sum(model["parameters_by_slot"].values()) == model["parameters"] > 0
    assert model["flops_per_token"] > 0
    assert len(logged.config["data"]["sha256"]) == 64
    rows = [{key: value for key, value in row.items() if not key.startswith("_")} for row in logged.history]
    assert rows == read_rows(folder / "metrics.jsonl")
    assert logged.metrics["train/*"] == logged.metrics["val/*"] == "tokens"
    assert ("recipe", f"recipe-{logged.run.run_id}") in logged.artifacts
    assert logged.exit_code == 0


@pytest.mark.slow
def test_rows_that_wandb_has_are_recognised(tmp_path: Path) -> None:
    """Also those with a figure that is not finite or with a table; a row with another loss is not one of them."""
    rows = [{"step": 1, "loss": 0.1}, {"step": 2, "loss": math.inf}, {"step": 3, "loss": math.nan}]
    run = wandb.init(mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True, console="off"))
    for row in rows:
        run.log(dict(row))
    table: dict[str, Any] = {"step": 3, "read": wandb.Table(columns=["text"], data=[["some"]])}
    run.log(dict(table))
    run.finish()
    sent = SentRows.read(tmp_path / "wandb")
    assert all(sent.has(row) for row in (*rows, table))
    assert not any(sent.has({**row, "loss": 7.0}) for row in rows)
    assert not sent.has({"step": 4, "loss": 0.1})
