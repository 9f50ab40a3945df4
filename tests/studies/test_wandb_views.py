"""The report and the workspace of a study as W&B would be sent them, and the sweep file; all without a network."""

import json
from pathlib import Path
from typing import Any

import pytest

from blockformer.cli.main import main
from blockformer.studies import wandb_views
from blockformer.studies.plan import make_plan
from blockformer.studies.study import read_study
from blockformer.studies.wandb_study import send_views
from blockformer.studies.wandb_views import report_of, workspace_of
from tests.studies.made_up import STUDY, made_up, planned


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No login and no server."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


def leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict | list):
        return [leaf for item in (tree.values() if isinstance(tree, dict) else tree) for leaf in leaves(item)]
    return [tree]


def filtered(filters: Any) -> dict[str, Any]:
    """The keys and values that runs are chosen by."""
    found: dict[str, Any] = {}
    for one in filters.get("filters") or []:
        found |= {one["key"]["name"]: one["value"]} if one.get("key") else filtered(one)
    return found


def test_the_report_has_verdicts_curves_by_variant_over_seeds_and_differences() -> None:
    results = made_up(planned())
    model = report_of(results, "me", "mine")._to_model()
    spec = json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))
    said = "\n".join(str(leaf) for leaf in leaves(spec))
    for text in (
        *("| variant | verdict |", "none is worse than the base", "decoder, all layers, feedforward"),
        *("the same model", "Dunnett's test", "blockformer compare which.yaml"),
    ):
        assert text in said, text
    (grid,) = [block for block in spec["blocks"] if block["type"] == "panel-grid"]
    (runs,) = grid["metadata"]["runSets"]
    assert filtered(runs["filters"]) == {"study": "study", "displayName": [run["id"] for run in results["runs"]]}
    assert [key["name"] for key in runs["grouping"]] == ["variant.value"]
    panels = grid["metadata"]["panelBankSectionConfig"]["panels"]
    assert [panel["viewType"] for panel in panels] == ["Run History Line Plot"] * 3 + ["Bar Chart"]
    for panel, axis in zip(panels, ("tokens", "seconds", "step"), strict=False):
        config = panel["config"]
        assert (config["metrics"], config["xAxis"]) == (["val/bits_per_byte"], axis)
        assert (config["groupBy"], config["groupAgg"], config["groupArea"]) == ("variant.value", "mean", "minmax")


def test_the_workspace_shows_the_runs_of_the_study_by_variant() -> None:
    view = workspace_of(made_up(planned()), "me", "mine")._to_model()
    spec = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
    assert view.display_name == "study"
    (section,) = [one for one in spec["section"]["panelBankConfig"]["sections"] if one["name"].startswith("By variant")]
    assert len(section["panels"]) == 4
    assert {"study", "displayName", "variant.value"} <= set(map(str, leaves(spec["section"]["runSets"])))


def test_without_a_login_one_line_says_so() -> None:
    (line,) = send_views(made_up(planned()), [])
    assert line == "W&B is offline: no report is made there; log in (wandb login), and repeat the command"
    (line,) = send_views(made_up(planned()), ["--run.wandb", "disabled"])
    assert line.startswith("W&B is disabled")


@pytest.mark.slow
def test_each_task_gets_its_views_and_a_failure_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def send(results: Any, entity: str | None, project: str) -> list[str]:
        assert project == "mine"
        return [f"https://{results['label']}"]

    monkeypatch.setattr(wandb_views, "send", send)
    options = ["--run.wandb=online", "--run.project", "mine"]
    tasks = {name: made_up(planned()) | {"label": name} for name in ("a", "b")}
    assert send_views({"tasks": tasks}, options) == ["W&B: https://a", "W&B: https://b"]

    def fails(*arguments: Any) -> list[str]:
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(wandb_views, "send", fails)
    (line,) = send_views(made_up(planned()), options)
    assert line == "W&B failed (ConnectionError: no): no report was made there; repeat the command"


@pytest.mark.slow
def test_a_sweep_lists_every_run_of_the_plan_for_the_command_that_executes_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, file = tmp_path / "which.yaml", tmp_path / "sweep.yaml"
    path.write_text(json.dumps(STUDY))
    arguments = ["compare", str(path), "--seeds", "2", "--out", str(tmp_path / "out"), "--run.wandb", "online"]
    assert main([*arguments, f"--sweep={file}"]) == 0
    assert f"wandb sweep {file}" in capsys.readouterr().out
    sweep = json.loads(file.read_text())
    plan = make_plan(read_study(path, changes={"seeds": 2}))
    assert sweep["parameters"]["only"]["values"] == [run.id for run in plan.answer_runs()]
    assert sweep["method"] == "grid"
    *command, macro = sweep["command"]
    assert macro == "${args}"  # W&B puts --only=RUN here
    assert command == ["blockformer", *arguments[:4], *arguments[6:], *arguments[4:6]]
    assert not (tmp_path / "out").exists()
    assert main([*command[1:], "--only=nothing"]) == 2
    assert "this study has no such run" in capsys.readouterr().err
