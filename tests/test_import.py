"""`import blockformer`: light, and one sentence where another module stands before one of ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "lightning", "wandb", "babel", "pydantic", "transformers", "blockformer.demo", "rich"}


def python(*arguments: str, folder: Path = ROOT, first: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with the project behind ``first`` on the path."""
    path = os.pathsep.join(str(place) for place in (first, ROOT) if place)
    environment = {**os.environ, "PYTHONPATH": path}
    whole = [sys.executable, *arguments]
    return subprocess.run(whole, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def loaded(program: str) -> set[str]:
    """The modules that a program leaves in sys.modules."""
    answer = python("-c", f"import sys\n{program}\nprint('\\n', *sys.modules)")
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.splitlines()[-1].split())


def sentence(name: str, file: object) -> str:
    return f"blockformer has a package called {name!r}, but Python imports {file} instead: rename or move that file"


@pytest.mark.parametrize("name", ["blocks", "registry"])
def test_a_foreign_module_on_the_path_is_one_sentence(name: str, tmp_path: Path) -> None:
    foreign = tmp_path / f"{name}.py"
    foreign.write_text("")
    script = tmp_path / "mine.py"
    script.write_text("import blockformer\n")
    answer = python(str(script))  # beside the script
    *_, raised, last = answer.stderr.splitlines()
    assert last == f"ImportError: {sentence(name, foreign)}"
    assert raised.strip() == "raise ImportError(problem)"
    assert answer.stderr.count("blockformer/__init__.py") == 1


@pytest.mark.parametrize("name", ["blocks", "registry"])
@pytest.mark.parametrize("place", ["working directory", "PYTHONPATH", "script"])
def test_a_foreign_module_on_the_path_of_the_command_is_one_line(name: str, place: str, tmp_path: Path) -> None:
    foreign = tmp_path / f"{name}.py"
    foreign.write_text("")
    if place == "script":  # as pip writes it
        script = tmp_path / "bin" / "blockformer"
        script.parent.mkdir()
        script.write_text("import sys\nfrom blockformer.cli.main import main\nsys.exit(main())\n")
        answer = python(str(script), "check", "gpt2", first=tmp_path)
    elif place == "PYTHONPATH":
        (tmp_path / "elsewhere").mkdir()
        answer = python("-m", "blockformer.cli.main", "check", "gpt2", first=tmp_path, folder=tmp_path / "elsewhere")
    else:
        answer = python("-m", "blockformer.cli.main", "check", "gpt2", folder=tmp_path)
    assert (answer.returncode, answer.stdout, answer.stderr) == (2, "", sentence(name, foreign) + "\n")


@pytest.mark.parametrize("name", ["blocks", "registry"])
def test_a_foreign_module_that_is_imported_already_is_one_sentence(name: str, tmp_path: Path) -> None:
    foreign = tmp_path / f"{name}.py"
    foreign.write_text("")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import {name}; sys.path.pop(0); import blockformer"
    answer = python("-c", program)
    assert answer.stderr.splitlines()[-1] == f"ImportError: {sentence(name, foreign)}"


def test_import_loads_nothing_heavy() -> None:
    assert not loaded("import blockformer as bf; bf.__all__") & HEAVY


def test_building_loads_no_trainer() -> None:
    modules = loaded("import blockformer as bf; bf.build('tiny_decoder')")
    assert "torch" in modules
    assert not modules & {"lightning", "wandb", "babel", "transformers", "blockformer.demo", "rich"}


def test_checking_loads_no_trainer() -> None:
    modules = loaded("from blockformer.cli.main import main; main(['check', 'tiny_decoder'])")
    assert not modules & {"lightning", "wandb", "babel", "transformers", "blockformer.demo"}


@pytest.mark.slow
def test_training_loads_neither_the_demo_nor_what_only_other_datasets_need() -> None:
    modules = loaded("import blockformer as bf; bf.train")
    assert "lightning" in modules
    assert not modules & {"babel", "blockformer.demo", "blockformer.cli"}


def test_training_loads_of_torchmetrics_what_lightning_needs() -> None:
    found = loaded("import blockformer.training.module")
    assert {"lightning.pytorch", "torchmetrics.metric"} <= found
    assert not {"transformers", "scipy.signal", "torchmetrics.functional", "matplotlib"} & found


@pytest.mark.slow
@pytest.mark.parametrize("lacks", ["", "del sys.modules['torchmetrics'].__dict__['_logger']"])
def test_all_of_torchmetrics_is_there_once_it_is_used(lacks: str) -> None:
    program = f"""import blockformer.training
{lacks}
from lightning.pytorch.core.module import Metric
import torchmetrics
assert torchmetrics.Metric is Metric is torchmetrics.metric.Metric
assert issubclass(torchmetrics.Accuracy, Metric) and torchmetrics.functional.accuracy
assert torchmetrics.__version__ and not hasattr(torchmetrics, "Acuracy")"""
    assert "torchmetrics.functional" in loaded(program)


@pytest.mark.slow
def test_metrics_of_torchmetrics_are_plotted() -> None:
    pytest.importorskip("matplotlib")
    program = """import blockformer.training, sys, torch
from lightning.pytorch.core.module import Metric
assert "matplotlib" not in sys.modules
import torchmetrics
metric = torchmetrics.MeanMetric()
metric.update(torch.tensor([1.0, 2.0]))
figure, _ = metric.plot()
from torchmetrics.utilities.plot import plot_curve
assert type(figure).__name__ == "Figure" and callable(plot_curve)"""
    assert "matplotlib" in loaded(program)


def test_every_public_name_is_there() -> None:
    import blockformer as bf

    assert set(bf.__all__) >= {"build", "check", "generate", "load", "load_recipe", "train", "warm_start"}
    assert all(callable(getattr(bf, name)) for name in bf.__all__)
