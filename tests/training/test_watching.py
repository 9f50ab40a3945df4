"""Runs that are watched: figures by layer, attention maps, spikes, traces."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from torch import Tensor, nn

import blockformer as bf
from blockformer.assembly.checkpoint import model_weights, read_checkpoint
from blockformer.cli.main import main
from blockformer.data.module import TextData
from blockformer.training.compilation import compile_model
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.loggers.sent_rows import CLOCKS
from blockformer.training.module import TrainingModule
from blockformer.training.objectives.causal_lm import CausalLM
from blockformer.training.score import TARGETS
from tests.conftest import last_of_each
from tests.training.wandb_log import read_run

Fit = Callable[..., Path]
BY_LAYER = ("gradient_norm", "weight_norm", "update_ratio", "activation_rms")
STILL = ("--recipe.embedding.dropout", "0.0", "--recipe.decoder.depth", "2")


def rows_with(folder: Path, part: str) -> list[dict[str, Any]]:
    return [row for row in read_rows(folder / "metrics.jsonl") if any(key.startswith(f"{part}/") for key in row)]


def batches(text: Path, count: int) -> list[dict[str, Tensor]]:
    """The first batches of the data of the fixture ``arguments``."""
    data = TextData("text", 0.1, 0.1, "bytes", length=32, batch_size=16, files=[str(text)])
    data.configure(objective=CausalLM())
    data.prepare_data()
    data.setup("fit")
    loader = data.loader("train")
    return [loader.batch(step) for step in range(count)]  # type: ignore[union-attr]


def norm(tensors: Iterator[Tensor]) -> float:
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors]).norm().item()


def test_the_figures_of_layers_are_those_of_torch_over_all_parts_of_a_step(fit: Fit, text: Path) -> None:
    step = ("--trainer.accumulate_grad_batches", "2", "--trainer.max_steps", "1", "--trainer.gradient_clip_val", "0.01")
    folder = fit(*STILL, *step, "--run.watch_every", "7", name="figures")
    (row,) = rows_with(folder, "weight_norm")
    model = bf.build("tiny_decoder", {"embedding.dropout": 0, "decoder.depth": 2}, seed=0)
    squares: dict[str, list[Tensor]] = {}
    for index in range(2):
        path = f"decoder.layers.{index}"
        squares[path] = []
        layer = model.get_submodule(path)
        layer.register_forward_hook(lambda _, given, output, path=path: squares[path].append(output.detach() ** 2))
    parts = batches(text, 2)
    total = torch.zeros(())
    for part in parts:
        logits = model(part["tokens"], documents=part.get("documents"))
        total = total + nn.functional.cross_entropy(logits.flatten(0, 1), part["targets"].flatten(), reduction="sum")
    (total / sum((part["targets"] != -100).sum() for part in parts)).backward()
    after = model_weights(read_checkpoint(folder / "checkpoints" / "last.ckpt"))
    places = ["embedding", "decoder.layers.0", "decoder.layers.1", "decoder.norm"]
    assert {key.partition("/")[2] for key in row if key.startswith("gradient_norm/")} == set(places)
    for place in places:
        own = {name: one for name, one in model.named_parameters() if name.startswith(f"{place}.")}
        assert row[f"gradient_norm/{place}"] == pytest.approx(norm(one.grad for one in own.values()), rel=1e-4)  # type: ignore[misc]
        assert row[f"weight_norm/{place}"] == pytest.approx(norm(iter(own.values())), rel=1e-5)
        update = norm(after[name] - one for name, one in own.items()) / norm(iter(own.values()))
        assert row[f"update_ratio/{place}"] == pytest.approx(update, rel=1e-3)
    for path, found in squares.items():
        assert row[f"activation_rms/{path}"] == pytest.approx(torch.stack(found).mean().sqrt().item(), rel=1e-4)
    whole = math.sqrt(sum(row[f"gradient_norm/{place}"] ** 2 for place in places))
    assert whole == pytest.approx(rows_with(folder, "train")[0]["gradient_norm"], rel=1e-5)


WATCHED = ("--run.watch_every", "2", "--run.attention_every", "3", "--run.profile", "1", "--run.spike_threshold", "3")


@pytest.mark.slow
def test_watching_changes_nothing_and_leaves_no_hooks(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    models: dict[int, nn.Module] = {}
    hooked: list[int] = []
    after = TrainingModule.on_train_batch_end

    def hooks(model: nn.Module) -> int:
        return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())

    def counted(self: TrainingModule, *given: Any) -> None:
        after(self, *given)
        models[id(self.model)] = self.model
        hooked.append(hooks(self.model))

    monkeypatch.setattr(TrainingModule, "on_train_batch_end", counted)
    plain = fit("--trainer.max_steps", "4", "--run.spike_threshold", "0", name="unwatched")
    assert set(hooked) == {0}
    seen = fit("--trainer.max_steps", "4", *WATCHED, name="watched")
    assert [hooks(model) for model in models.values()] == [0, 0]  # a trace names layers by hooks as long as it lasts
    ours, theirs = (model_weights(read_checkpoint(run / "checkpoints" / "last.ckpt")) for run in (plain, seen))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    kept = [
        {key: value for key, value in row.items() if key not in CLOCKS} for row in read_rows(plain / "metrics.jsonl")
    ]
    found = [
        {key: value for key, value in row.items() if key not in CLOCKS}
        for row in read_rows(seen / "metrics.jsonl")
        if not any(key.startswith(BY_LAYER[1]) for key in row)
    ]
    assert kept == found
    assert [row["step"] for row in rows_with(seen, "weight_norm")] == [1, 2, 4]


@pytest.mark.slow
def test_wandb_gets_figures_and_pictures_over_tokens(fit: Fit) -> None:
    more = ("--recipe", "tiny_experts", "--recipe.decoder.depth", "2")
    options = ("--trainer.max_steps", "3", "--run.watch_every", "3", "--run.attention_every", "3")
    folder = fit(*more, *options, "--run.wandb", "offline", name="in-wandb")
    logged = read_run(folder / "wandb")
    rows = [{key: value for key, value in row.items() if not key.startswith("_")} for row in logged.history]
    pictures = [row for row in rows if any(key.startswith("attention/") for key in row)]
    assert [row for row in rows if row not in pictures] == read_rows(folder / "metrics.jsonl")
    assert {logged.metrics[f"{group}/*"] for group in (*BY_LAYER, "expert_load_max", "expert_load_min")} == {"tokens"}
    assert [(row["step"], row["tokens"]) for row in pictures] == [(1, 512), (3, 1536)]
    drawn = sorted((folder / "attention" / "step-3").iterdir())
    assert [file.name for file in drawn] == [f"decoder.layers.{index}.mixer.png" for index in range(2)]
    for file in drawn:
        kind, path, *size = (
            pictures[1][f"attention/{file.stem}.{key}"] for key in ("_type", "path", "height", "width")
        )
        assert kind == "image-file"
        (stored,) = (folder / "wandb").glob(f"**/{path}")
        assert stored.read_bytes() == file.read_bytes()
        assert list(imread(file).shape[:2]) == size
    loads = rows_with(folder, "expert_load_max")[-1]
    assert all(loads[key] >= 1 >= loads[key.replace("max", "min")] for key in loads if "expert_load_max" in key)


@pytest.mark.slow
def test_mixers_without_a_map_are_named_once(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    hybrid = ("--recipe", "tiny_hybrid", "--recipe.decoder.depth", "4", "--run.attention_every", "1")
    folder = fit(*hybrid, "--trainer.max_steps", "2", name="hybrid")
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "attention weights" in line)
    assert line.endswith("no attention weights to draw in decoder.layers.0.mixer and 2 more (gated_delta)")
    for step in (1, 2):
        assert [file.name for file in (folder / "attention" / f"step-{step}").iterdir()] == [
            "decoder.layers.3.mixer.png"
        ]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--run.attention_every", "2", "--recipe.decoder.layer.mixer", "gated_delta"], "no mixer of this model has"),
        (
            ["--run.attention_every", "2", "--data.validation", "0"],
            "the validation split, whose rows it draws, is empty",
        ),
        (["--run.watch_every", "-1"], "run.watch_every must be a number of steps from 0, not -1"),
        (["--run.spike_threshold", "-2"], "run.spike_threshold must be a number of deviations from 0, not -2.0"),
        (["--run.profile", "2", "--trainer.profiler", "pytorch"], "run.profile and trainer.profiler pytorch"),
    ],
)
def test_what_cannot_be_watched_is_refused(
    options: list[str], reason: str, arguments: list[str], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*arguments, "--run.root", str(runs), "--run.name", "refused", "--trainer.max_steps", "2", *options]
    assert main(["fit", *last_of_each(given)]) == 2
    assert reason in capsys.readouterr().err


def test_without_matplotlib_the_option_says_how_to_install_it(
    arguments: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    given = [*arguments, "--run.root", str(runs), "--run.name", "bare", "--run.attention_every", "2"]
    assert main(["fit", *given]) == 2
    assert "pip install 'blockformer[pictures]'" in capsys.readouterr().err


def spiking(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Reported losses and gradients of these steps are large."""
    step = TrainingModule.training_step

    def spoilt(self: TrainingModule, batch: Any, batch_idx: int) -> Tensor:
        loss = step(self, batch, batch_idx)
        if self.trainer.global_step + 1 not in steps:
            return loss
        assert self.window is not None
        self.window = self.window.clone()
        self.window[0] = 20 * self.window[TARGETS]
        return loss * 100

    monkeypatch.setattr(TrainingModule, "training_step", spoilt)


def marks(folder: Path) -> list[tuple[int, float, float]]:
    rows = [row for row in rows_with(folder, "spikes") if "train/loss" in row]
    return [(row["step"], row["spikes/loss"], row["spikes/gradient_norm"]) for row in rows]


@pytest.mark.slow
def test_spikes_are_marked_printed_once_and_counted_also_by_a_run_that_continues(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spiking(monkeypatch, 30, 31, 36)
    steady = (
        "--optimizer.schedule",
        "constant",
        "--trainer.limit_val_batches",
        "0",
        "--trainer.log_every_n_steps",
        "4",
    )
    fit(*steady, "--trainer.max_steps", "40", name="spiking")
    output = capsys.readouterr()
    lines = [line for line in output.err.splitlines() if "spike of the loss" in line]
    assert [line.split(":")[1] for line in lines] == [" spike of the loss at step 30", " spike of the loss at step 36"]
    assert "20, usually" in lines[0]
    assert "spikes: 2 of the loss, 2 of the gradient norm" in output.out
    whole = fit(*steady, "--trainer.max_steps", "40", name="spiking-again")
    fit(*steady, "--trainer.max_steps", "30", name="parted")
    capsys.readouterr()
    parted = fit("--ckpt_path", "last", "--trainer.max_steps", "40", name="parted", given=CONTINUED)
    assert "spikes: 2 of the loss, 2 of the gradient norm" in capsys.readouterr().out
    assert marks(whole) == [(32, 2, 2), (36, 1, 1)]
    # the run that was stopped has a row at its last step, 30, in which the first step of the spike is marked
    assert marks(parted) == [(30, 1, 1), (32, 1, 1), (36, 1, 1)]


CONTINUED = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu", "--run.wandb", "disabled"]


def test_a_trace_has_the_steps_that_were_asked_for_and_the_names_of_modules(
    fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = ("--trainer.accumulate_grad_batches", "2", "--trainer.limit_val_batches", "0")
    folder = fit(*parts, "--trainer.max_steps", "8", "--run.profile", "2", name="traced")
    assert f"trace of steps 5 to 6: {folder / 'trace.json'}; open it at" in capsys.readouterr().out
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if event.get("ph") == "X"]
    assert len({name for name in names if name.startswith("ProfilerStep#")}) == 2
    assert sum(name.endswith(": model.decoder.layers.0.mixer") for name in names) == 4
    assert not list(folder.glob(".*.tmp"))


def test_a_run_too_short_for_a_trace_says_so(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fit("--trainer.max_steps", "5", "--run.profile", "2", name="short")
    assert "note: run.profile 2: a trace needs 6 steps, and these were 5" in capsys.readouterr().err
    assert not (folder / "trace.json").exists()


@pytest.mark.slow
def test_a_compiled_model_has_the_figures_and_pictures_of_an_uncompiled_one(
    fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_model, "__defaults__", ("aot_eager",))  # what the kernels are changes nothing here
    options = (*STILL, "--trainer.max_steps", "2", "--run.watch_every", "2", "--run.attention_every", "2")
    plain, compiled = fit(*options, name="eager"), fit(*options, "--model.compile", "true", name="compiled")
    for row, other in zip(rows_with(plain, "weight_norm"), rows_with(compiled, "weight_norm"), strict=True):
        assert row.keys() == other.keys()
        assert any(key.startswith("activation_rms/") for key in row)
        for key in row.keys() - {"seconds"}:
            assert row[key] == pytest.approx(other[key], rel=1e-3), key
    for file in (plain / "attention").glob("*/*.png"):
        other = compiled / file.relative_to(plain)
        assert abs(imread(file) - imread(other)).mean() < 1e-3
