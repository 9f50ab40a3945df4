"""The command line of `blockformer compare`; what a study does is tested in tests/studies."""

import json
from pathlib import Path

import pytest

from blockformer.cli import compare
from blockformer.cli.main import main
from blockformer.studies import api
from blockformer.studies.study import Study
from tests.studies.made_up import STUDY, made_up, planned


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "which.yaml"
    path.write_text(json.dumps(STUDY))
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.length", "8", "--data.length=16"], "--data.length is given twice, 8 and 16: give it once"),
        (["--run.wandb", "offline", "--run.wandb", "online"], "--run.wandb is given twice"),
        (["--seeds", "2", "--seeds", "3"], "--seeds is given twice: give it once"),
        (["--data.length"], "--data.length requires a value"),
        (["--data.length", "--tier", "quick"], "--data.length requires a value"),
        (["--run.wandb"], "--run.wandb requires a value"),
        (["--tier"], "--tier: expected one argument"),
        (["--run.name", "x"], "--run.name cannot be set: the study sets it for each run"),
        (["--run.wandbb", "offline"], "--run.wandbb: there is no such option; did you mean 'wandb'?"),
        (["--only", "x", "--report"], "leave --plan, --add-seeds, --report and --sweep out"),
        (["--sweep", "x.yaml", "--plan"], "--sweep writes a file"),
        (["--lr", "3"], "there is no option --lr; did you mean --optimizer.lr?"),
        (["--max_steps", "3"], "there is no option --max_steps; did you mean --trainer.max_steps?"),
        (["--tierr", "quick"], "there is no option --tierr; did you mean --tier?"),
        (["--data.lenght", "3"], "fit.data.lenght: there is no such setting; did you mean 'length'?"),
        (["--data.seed", "3"], "fit.data.seed: cannot be set: the study's seeds set it"),
        (["--data.length", "[1"], "--data.length: is not YAML"),
    ],
)
def test_a_wrong_option_is_one_line(
    arguments: list[str], message: str, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["compare", str(study), *arguments])
    except SystemExit as stop:
        status = stop.code
    said = capsys.readouterr().err
    assert (status, said.count("\n")) == (2, 1)
    assert message in said


def test_a_report_that_cannot_be_made_is_refused_before_anything_is_trained(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        main(["compare", str(study), "--report"])
    assert stop.value.code == 2
    assert "--report needs the package wandb-workspaces: pip install 'blockformer[reports]'" in capsys.readouterr().err


def test_tags_may_be_given_several_times_and_go_to_the_runs() -> None:
    given = ["a.yaml", "--run.tags", "a", "--run.tags=b", "--trainer.max_steps", "3", "--tier", "quick"]
    own, settings, passed = compare.split_arguments(given, ["--tier"])
    assert own == ["a.yaml", "--tier", "quick"]
    assert settings == {"fit.trainer.max_steps": 3}
    assert passed == ["--run.tags", "a", "--run.tags", "b"]


def test_texts_of_a_study_do_not_act_on_the_terminal(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def execute(found: Study, folder: Path, **options: object) -> dict[str, object]:
        return made_up(planned(question="red \x1b[31m?"))

    monkeypatch.setattr(api, "execute", execute)
    assert main(["compare", str(study), "--out", str(tmp_path / "\x1bout")]) == 0
    said = capsys.readouterr().out
    assert "red \\x1b[31m?" in said
    assert "report: " in said
    assert "\x1b" not in said
