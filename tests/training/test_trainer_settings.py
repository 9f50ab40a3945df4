"""Every option of Lightning's trainer does what it says, or is refused with the reason."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from blockformer.assembly.checkpoint import read_metadata
from blockformer.cli.main import main
from blockformer.data.loader import TrainingLoader
from blockformer.training.loggers.file_logger import read_rows
from tests.conftest import last_of_each

Fit = Callable[..., Path]

REFUSED = {
    "accelerator abacus": "You selected an invalid accelerator name",
    "strategy dp": "You selected an invalid strategy name",
    "strategy ddp_spawn": "ddp_spawn is not supported; use ddp",
    "devices 0": "is not a valid input using cpu accelerator",
    "devices -1": "should be an int > 0",
    "num_nodes 0": "must be at least 1",
    "num_nodes 2": "start each node with torchrun or SLURM",
    "precision 16-mixed": "is not supported on a CPU; use bf16-mixed",
    "precision 16": "is not supported on a CPU; use bf16-mixed",
    "precision fp8": "not an accepted value",
    "precision transformer-engine": "transformer_engine",
    "fast_dev_run -1": "It should be >= 0",
    "max_epochs 0": "leaves nothing to fit",
    "max_steps 0": "leaves nothing to fit",
    "max_steps -2": "must be a non-negative integer or -1",
    "min_steps 9 --trainer.max_steps 3": "is more than --trainer.max_steps 3",
    "min_epochs 3 --trainer.max_epochs 1": "is more than --trainer.max_epochs 1",
    "min_epochs 9 --trainer.max_steps 3": "min_epochs asks for 99 steps, and the run has 3",
    "max_time 00:00:00:00": "leaves nothing to fit",
    "max_time soon": "is not a valid duration",
    "limit_train_batches 0": "leaves nothing to fit",
    "limit_train_batches 0.0": "leaves nothing to fit",
    "limit_train_batches -1": "invalid value -1 for limit_train_batches",
    "limit_train_batches 0.01": "0.01 * 11 < 1",
    "limit_val_batches 1.5": "invalid value 1.5 for limit_val_batches",
    "limit_test_batches -1": "invalid value -1 for limit_test_batches",
    "limit_predict_batches -1": "invalid value -1 for limit_predict_batches",
    "overfit_batches -1": "invalid value -1 for overfit_batches",
    "val_check_interval 0": "must be above 0",
    "val_check_interval -1": "must be above 0",
    "val_check_interval 1.5": "invalid value 1.5 for val_check_interval",
    "val_check_interval 00:00:00:01 --trainer.accumulate_grad_batches 2": "could validate inside a step",
    "check_val_every_n_epoch 0": "must be at least 1",
    "num_sanity_val_steps -2": "must be at least -1",
    "log_every_n_steps 0": "must be at least 1",
    "accumulate_grad_batches 0": "must be at least 1",
    "accumulate_grad_batches -1": "must be at least 1",
    "gradient_clip_val -1": "must be at least 0",
    "gradient_clip_algorithm foo": "Allowed algorithms",
    "use_distributed_sampler true": "has no effect here, because the processes share each batch",
    "profiler foo": "it can only be one of",
    "barebones true": "has no effect here, because it leaves out checkpoints",
    "plugins nowhere.X": "No module named 'nowhere'",
    "sync_batchnorm true": "this model has no batch norm",
    "reload_dataloaders_every_n_epochs 1": "has no effect here, because batches depend on the seed",
    "default_root_dir elsewhere": "has no effect here, because a run is written to --run.root",
    "enable_autolog_hparams false": "every run keeps its facts.json",
    "model_registry mine": "has no effect here, because no checkpoint is uploaded",
}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("more", REFUSED)
def test_a_setting_that_cannot_do_what_it_says_is_refused(
    more: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option, value, *rest = more.split()
    given = last_of_each([*arguments, "--run.root", str(tmp_path), f"--trainer.{option}", value, *rest])
    assert REFUSED[more] in refusal(capsys, "fit", *given)
    assert not list(tmp_path.glob("*/checkpoints"))


class Noted(Callback):
    """Keeps what a run looked like."""

    seen: dict[str, Any]

    def __init__(self) -> None:
        type(self).seen = {"batches": [], "training": 0, "inference": []}

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen["batches"].append(batch["tokens"].sum().item())
        self.seen["anomaly"] = torch.is_anomaly_enabled()
        self.seen["deterministic"] = torch.are_deterministic_algorithms_enabled()
        self.seen["benchmark"] = torch.backends.cudnn.benchmark
        self.seen["dtype"] = next(pl_module.parameters()).dtype

    def on_validation_batch_start(self, *_: Any) -> None:
        self.seen["inference"].append(torch.is_inference_mode_enabled())


def look(fit: Fit, *more: str, name: str) -> dict[str, Any]:
    fit(*more, "--trainer.callbacks", f"{__name__}.Noted", name=name)
    return Noted.seen


@pytest.mark.slow
def test_overfit_batches_takes_the_same_batches_again_and_again(fit: Fit) -> None:
    whole = look(fit, "--trainer.max_epochs", "2", name="not-overfit")["batches"]
    assert len(set(whole)) > 11
    for batches, wanted in (("2", 2), ("0.5", 5)):
        seen = look(fit, "--trainer.overfit_batches", batches, "--trainer.max_epochs", "3", name=f"overfit-{wanted}")
        assert seen["batches"] == whole[:wanted] * 3


def test_a_repeating_loader_continues_where_it_was() -> None:
    class Numbers:
        vary = False

        def __len__(self) -> int:
            return 40

        def batch(self, chosen: Any, epoch: int) -> Any:
            return list(chosen)

    loader = TrainingLoader(Numbers(), 4, seed=1)  # type: ignore[arg-type]
    loader.repeated = 3
    assert [loader.batch(step) for step in range(3, 9)] == [loader.batch(step) for step in (0, 1, 2, 0, 1, 2)]


@pytest.mark.slow
def test_anomalies_are_detected(fit: Fit) -> None:
    assert look(fit, "--trainer.max_steps", "1", "--trainer.detect_anomaly", "true", name="anomaly")["anomaly"]


@pytest.mark.filterwarnings("ignore:Error detected")
def test_an_anomaly_is_one_line(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [*arguments, "--run.root", str(tmp_path), "--trainer.detect_anomaly", "true", "--optimizer.lr", "1e30"]
    assert main(["fit", *given, "--trainer.max_steps", "5"]) == 1
    assert re.search(r"^the run failed: .*returned nan values.*lower --optimizer.lr", capsys.readouterr().err, re.M)


def test_determinism_and_benchmarks_are_set(fit: Fit) -> None:
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    try:
        seen = look(fit, "--trainer.max_steps", "1", "--trainer.deterministic", "true", name="deterministic")
        assert (seen["deterministic"], seen["benchmark"]) == (True, False)
        torch.use_deterministic_algorithms(False)
        assert look(fit, "--trainer.max_steps", "1", "--trainer.benchmark", "true", name="benchmark")["benchmark"]
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        *(("64", torch.float64), ("64-true", torch.float64), ("32", torch.float32), ("32-true", torch.float32)),
        *(("bf16", torch.float32), ("bf16-mixed", torch.float32), ("bf16-true", torch.bfloat16)),
        ("16-true", torch.float16),
    ],
)
def test_parameters_have_the_precision_that_is_asked_for(fit: Fit, precision: str, dtype: torch.dtype) -> None:
    seen = look(fit, "--trainer.max_steps", "1", "--trainer.precision", precision, name=f"precision-{precision}")
    assert seen["dtype"] == dtype


@pytest.mark.slow
def test_validation_is_with_or_without_inference_mode(fit: Fit) -> None:
    short = ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "1"]
    checkpoint = fit(*short, name="inference") / "checkpoints" / "last.ckpt"
    for mode, wanted in (("true", True), ("false", False)):
        more = ["--trainer.inference_mode", mode, "--trainer.callbacks", f"{__name__}.Noted"]
        assert main(["validate", "--ckpt_path", str(checkpoint), "--trainer.limit_val_batches", "1", *more]) == 0
        assert Noted.seen["inference"] == [wanted]


def test_a_dry_run_writes_nothing(fit: Fit, runs: Path) -> None:
    fit("--trainer.fast_dev_run", "2", name="dry")
    assert not (runs / "dry").exists()


@pytest.mark.slow
def test_a_run_ends_after_its_time_and_keeps_its_result(fit: Fit) -> None:
    folder = fit("--trainer.max_time", "00:00:00:01", "--optimizer.schedule", "constant", name="timed")
    assert (
        read_metadata(folder / "checkpoints" / "last.ckpt")["step"] == read_rows(folder / "metrics.jsonl")[-1]["step"]
    )


def test_steps_are_reported_and_batches_limited_as_asked(fit: Fit) -> None:
    limits = ["--trainer.limit_train_batches", "4", "--trainer.max_epochs", "2"]
    rows = read_rows(fit(*limits, "--trainer.limit_val_batches", "0", name="limited") / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 9))


def test_without_checkpoints_there_are_none(fit: Fit) -> None:
    folder = fit("--trainer.max_steps", "1", "--trainer.enable_checkpointing", "false", name="without-checkpoints")
    assert not (folder / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "split"), [("validate", "val"), ("test", "test"), ("predict", "predict")])
def test_nothing_to_do_for_a_checkpoint_is_refused(
    verb: str, split: str, fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = fit("--trainer.max_steps", "1", name=f"nothing-to-{verb}") / "checkpoints" / "last.ckpt"
    before = sorted(checkpoint.parents[1].iterdir())
    for value in ("0", "0.0"):
        line = refusal(capsys, verb, "--ckpt_path", str(checkpoint), f"--trainer.limit_{split}_batches", value)
        assert f"--trainer.limit_{split}_batches {value}: leaves nothing to {verb}" in line
    assert sorted(checkpoint.parents[1].iterdir()) == before


def test_a_profile_of_torch_is_in_files_of_the_run(fit: Fit) -> None:
    folder = fit("--trainer.max_steps", "1", "--trainer.profiler", "pytorch", name="profile-pytorch")
    reports = list(folder.glob("*profile*"))
    assert reports
    assert all(path.stat().st_size for path in reports)


@pytest.mark.parametrize("profiler", ["simple", "advanced"])
def test_a_profile_is_a_file_of_the_run(fit: Fit, profiler: str) -> None:
    folder = fit("--trainer.max_steps", "1", "--trainer.profiler", profiler, name=f"profile-{profiler}")
    (report,) = folder.glob("*profile*.txt")
    assert "optimizer_step" in report.read_text()


ADVICE = {
    "--lr": "--optimizer.lr",
    "--optimizer.learning_rate": "--optimizer.lr",
    "--learning-rate": "--optimizer.lr",
    "--batch_size": "--data.batch_size",
    "--epochs": "--trainer.max_epochs",
    "--steps": "--trainer.max_steps",
    "--max_steps": "--trainer.max_steps",
    "--seed": "--seed_everything",
    "--device": "--trainer.accelerator",
    "--gpus": "--trainer.devices",
    "--fp16": "--trainer.precision",
    "--resume": "--ckpt_path",
    "--trainer.lr": "--optimizer.lr",
    "--run.nmae": "--run.name",
}


@pytest.mark.parametrize("option", ADVICE)
def test_the_advice_for_a_familiar_spelling_is_the_option_that_was_meant(
    option: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, "fit", *arguments, option, "1")
    assert line == f"there is no option {option}; did you mean {ADVICE[option]}?"


def test_a_model_is_called_a_recipe(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean --recipe gpt2?" in refusal(capsys, "fit", *arguments, "--model", "gpt2")


TWICE = {
    "--trainer.max_steps 5 --trainer.max_steps=6": "--trainer.max_steps is given twice, 5 and 6: give it once",
    "--run.name a --run.name a": "--run.name is given twice, a and a",
    "--recipe.decoder.depth 1 --recipe.decoder.depth 2": "--recipe.decoder.depth is given twice, 1 and 2",
    "--init-from a --init_from b": "--init-from is given twice, a and b",
    "--ckpt_path last --ckpt_path best": "--ckpt_path is given twice, last and best",
    "--trainer.devices 1 --trainer.devices 2": "--trainer.devices is given twice, 1 and 2",
}


@pytest.mark.parametrize("options", TWICE)
def test_an_option_that_is_given_twice_is_refused(options: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert TWICE[options] in refusal(capsys, "fit", "--recipe", "tiny_decoder", *options.split())


def test_lists_take_all_that_is_given(arguments: list[str], text: Path, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text(text.read_text()[::-1])
    more = ["--data.files", str(tmp_path / "more.txt"), "--run.tags", "a", "--run.tags=b", "--trainer.max_steps", "1"]
    assert main(["fit", *arguments, *more, "--run.root", str(tmp_path), "--run.name", "lists"]) == 0
    config = read_metadata(tmp_path / "lists" / "checkpoints" / "last.ckpt")["config"]
    assert config["data"]["files"] == [str(text), str(tmp_path / "more.txt")]
    assert config["run"]["tags"] == ["a", "b"]
