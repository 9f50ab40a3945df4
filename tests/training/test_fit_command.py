"""What `fit` makes of its command line, in this process."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import registry
from blockformer.assembly.checkpoint import read_metadata
from blockformer.cli.fit import MEANINGS, NAMING, page
from blockformer.cli.main import main
from blockformer.training import components
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.signature import sign
from blockformer.training.stored_settings import settings_of
from tests.conftest import last_of_each

Fit = Callable[..., Path]
QUIET = ["--trainer.enable_progress_bar", "false", "--run.wandb", "disabled"]


def recipe_of(folder: Path) -> dict[str, Any]:
    return read_metadata(folder / "checkpoints" / "last.ckpt")["recipe"]


@pytest.fixture(scope="module")
def short(fit: Fit) -> Path:
    """A run of two steps."""
    return fit("--trainer.max_steps", "2", "--recipe.decoder.layer.mixer.kv_heads=1", name="short")


def test_overrides_change_what_is_trained_and_nothing_else(short: Path, arguments: list[str]) -> None:
    plain = registry.load_recipe("tiny_decoder", ["decoder.depth=1", "embedding.dropout=0.1"]).dump()
    trained = recipe_of(short)
    assert trained["decoder"]["layer"]["mixer"].pop("kv_heads") == 1
    assert plain["decoder"]["layer"]["mixer"].pop("kv_heads") == 2
    assert trained == plain


def test_the_recipe_is_saved_in_canonical_form(short: Path) -> None:
    assert (
        registry.load_recipe(short / "recipe.yaml").hash
        == read_metadata(short / "checkpoints" / "last.ckpt")["recipe_hash"]
    )
    assert yaml.safe_load((short / "config.yaml").read_text())["recipe"] == recipe_of(short)


def test_the_saved_configuration_repeats_the_run_under_another_name(fit: Fit, short: Path, runs: Path) -> None:
    again = fit("--config", str(short / "config.yaml"), name="again", given=[])
    assert recipe_of(again) == recipe_of(short)
    losses = [[row.get("train/loss") for row in read_rows(folder / "metrics.jsonl")] for folder in (again, short)]
    assert losses[0] == losses[1]


def test_an_override_applies_to_the_recipe_of_a_configuration_file(fit: Fit, short: Path) -> None:
    changed = fit("--config", str(short / "config.yaml"), "--recipe.decoder.depth", "2", name="deeper", given=[])
    assert recipe_of(changed)["decoder"]["depth"] == 2
    assert recipe_of(changed)["decoder"]["layer"]["mixer"]["kv_heads"] == 1


def test_a_recipe_on_the_command_line_overrules_that_of_a_file(fit: Fit, short: Path) -> None:
    other = fit("--config", str(short / "config.yaml"), "--recipe", "tiny_decoder", name="overruled", given=[])
    assert recipe_of(other)["decoder"]["layer"]["mixer"]["kv_heads"] == 2


def test_a_later_file_overrules_an_earlier_one_key_by_key(fit: Fit, short: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("optimizer: {lr: 1e-2}\n")
    folder = fit("--config", str(short / "config.yaml"), "--config", str(overlay), name="overlaid", given=[])
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert settings["optimizer"]["lr"] == 0.01
    assert settings["optimizer"]["warmup_steps"] == 2


def test_last_means_that_of_the_run_whose_configuration_is_given(fit: Fit, short: Path, runs: Path) -> None:
    fit("--config", str(short / "config.yaml"), name="mine", given=[])
    mine = runs / "mine"
    status = main(
        ["fit", "--config", str(mine / "config.yaml"), "--ckpt_path", "last", "--trainer.max_steps", "3", *QUIET]
    )
    assert status == 0
    assert read_rows(mine / "metrics.jsonl")[-1]["step"] == 3


@pytest.mark.slow
def test_validate_and_test_need_a_checkpoint_alone(short: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = str(short / "checkpoints" / "last.ckpt")
    assert main(["validate", "--ckpt_path", checkpoint]) == 0
    assert main(["test", "--ckpt_path", checkpoint]) == 0
    validated, tested = read_rows(short / "evaluations.jsonl")
    training = read_rows(short / "metrics.jsonl")[-1]
    assert validated["val/loss"] == training["val/loss"]
    assert tested["test/loss"] > 0
    assert f"validate {checkpoint}: loss {training['val/loss']:.4f}" in capsys.readouterr().out


def test_predict_writes_text_beside_text(short: Path) -> None:
    assert main(["predict", "--ckpt_path", str(short / "checkpoints" / "last.ckpt")]) == 0
    rows = read_rows(short / "predictions.jsonl")
    assert set(rows[0]) == {"predicted", "target", "accuracy"}
    assert "quick" in " ".join(row["target"] for row in rows)


def test_a_checkpoints_settings_cannot_name_code(short: Path) -> None:
    from blockformer.training.fit_arguments import safe_settings

    settings = {"trainer": {"max_steps": 3, "callbacks": ["os.system"], "logger": "os.system", "strategy": "os.system"}}
    assert safe_settings(settings | {"plugin": ["os"]}) == {"trainer": {"max_steps": 3}, "run": {}}


def test_a_run_goes_on_with_its_way_of_clipping_and_its_batches(fit: Fit) -> None:
    options = ["--trainer.gradient_clip_algorithm", "value", "--trainer.overfit_batches", "2"]
    folder = fit("--trainer.max_steps", "1", *options, name="clipped-by-value")
    checkpoint = str(folder / "checkpoints" / "last.ckpt")
    assert main(["fit", "--ckpt_path", checkpoint, "--trainer.max_steps", "2", *QUIET]) == 0
    trainer = yaml.safe_load((folder / "config.yaml").read_text())["trainer"]
    assert (trainer["gradient_clip_algorithm"], trainer["overfit_batches"], trainer["max_steps"]) == ("value", 2, 2)


def test_the_page_of_help_names_only_options_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--help", "all"])
    assert end.value.code == 0
    known = set(re.findall(r"--[\w.]+", capsys.readouterr().out)) | {
        "--plugin",
        "--recipe.KEY",
        "--recipe.decoder.depth",
        "--recipe.adapters",
        "--help",
        "--out",  # of validate, test and predict
        *(f"--data.{name}" for entry in registry.entries("dataset").values() for name in entry.parameters),
    }
    for verb in MEANINGS:
        assert set(re.findall(r"--[\w.]+\w", page(verb))) <= known


WRONG = {
    "--optimizer.lr fast": "--optimizer.lr: expected float, not fast",
    "--optimiser.lr 1": "there is no option --optimiser.lr; did you mean --optimizer.lr?",
    "--optimizer.schedule cosin": "optimizer.schedule: there is no schedule \"cosin\"; did you mean 'cosine'?",
    "--optimizer.type adam": "optimizer.type: there is no optimizer \"adam\"; did you mean 'adamw'?",
    "--optimizer.momentum 0.9": "of optimizer 'muon' and 'sgd', and has no effect with optimizer 'adamw'",
    "--optimizer.lr -1": "optimizer: lr must be above 0 and at most 3.4e+38, not -1.0",
    "--optimizer.schedule constant --optimizer.decay_steps 9": "and has no effect with schedule 'constant'",
    "--trainer.gradient_clip_val 0 --trainer.gradient_clip_algorithm value": "gradient_clip_algorithm has no effect",
    "--optim.lr 1": "there is no option --optim.lr; did you mean --optimizer.lr?",
    "--trainer.max_steps many": "--trainer.max_steps: expected int, not many",
    "--optimizer.lr=": "--optimizer.lr: expected float, not ''",
    "--optimizer.ema=": "--optimizer.ema: expected float or null, not ''",
    "--optimizer.ema many": "--optimizer.ema: expected float or null, not many",
    "--trainer.accelerator abacus": "You selected an invalid accelerator name",
    "--trainer.gradient_clip_val -3": "--trainer.gradient_clip_val -3: must be at least 0",
    "--trainer.callbacks nowhere.Callback": "No module named 'nowhere'",
    "--trainer.accumulate_grad_batches 2 --trainer.val_check_interval 3": "of which 2 make a step",
    "--recipe.decoder.dept 4": "stack 'layers' has no parameter 'dept'; did you mean 'depth'?",
    "--recipe.dim 33": "dim=33 is not a multiple of heads=4",
    "--recipe gpt2": "--recipe is given 2 times; to change a recipe, write a file with `extends: tiny_decoder`",
    "--recipe.decoder.depth": "--recipe.decoder.depth requires a value",
    "--config nowhere.yaml": "nowhere.yaml: cannot be read",
    "--data.files nowhere.txt": "nowhere.txt: no such file",
    "--run.tags a b": "b belongs to no option: each option takes one value; give that of a list several times, as",
    "--data.dataset texts": "data.dataset: there is no dataset \"texts\"; did you mean 'text'?",
    "--data.locale fr": "data.locale is a setting of dataset 'cldr', and has no effect with dataset 'text'; remove it",
    "--data.test_file a.txt": "there is no option --data.test_file; did you mean --data.test_files?",
    "--data.package numpy": "there is no option --data.package; did you mean --data.packages of dataset 'docstrings'?",
    "--data nowhere.yaml": "--data takes a configuration file, which nowhere.yaml is not",
    "--data.length 4000": "data.length 4000 is more than the recipe's max_length 64",
    "--data.batch_size 9999": "fewer than batch_size 9999",
    "--objective.type seq2seq": "objective.type seq2seq trains encoder_decoder models, and this one is decoder_only",
    "--objective.type causal": "objective.type: there is no objective \"causal\"; did you mean 'causal_lm'?",
    "--objective.label_smoothing 2": "objective.label_smoothing must be less than 1, not 2.0",
    "--objective.mask_rate 0.2": "objective.mask_rate is a setting of objective 'denoising', 'masked_lm' and",
    "--run.name a/b": "run.name 'a/b' must be the name of a folder",
    "--run.monitor val/los": "run.monitor val/los is not one of the figures val/accuracy",
    "--ckpt_path nowhere.ckpt": "nowhere.ckpt: there is no such file",
    "--ckpt_path best": "there is no such checkpoint",
}


@pytest.mark.parametrize("more", WRONG)
def test_a_mistake_ends_in_one_clear_line(
    more: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        *arguments,
        "--run.root",
        str(tmp_path),
        "--run.name",
        "wrong",
        "--trainer.max_steps",
        "1",
    ]
    twice = more.startswith("--recipe gpt2")
    given = [*options, *more.split()]
    assert main(["fit", *(given if twice else last_of_each(given))]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert WRONG[more] in line


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("trainer: {max_stepz: 3}", "there is no option --trainer.max_stepz; did you mean --trainer.max_steps?"),
        ("trainer: {max_steps: 3}\ntrainer: {}", "overlay.yaml:2: key 'trainer' is given twice; first at line 1"),
        ("recipe: [gpt2]", "recipe must be a name, a path or a mapping"),
        ("a: [", "overlay.yaml:2: is not YAML"),
    ],
)
def test_a_mistake_in_a_configuration_file_is_named(
    content: str, answer: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(f"{content}\n")
    assert main(["fit", *arguments, "--run.root", str(tmp_path), "--config", str(overlay)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert answer in line


def test_the_file_of_the_data_may_choose_the_dataset(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "data.yaml"
    settings.write_text("dataset: cldr\npairs: -3\n")
    others = [
        word for word in arguments if not word.startswith("--data.files") and word not in ("--data.dataset", "text")
    ]
    assert main(["fit", *others, "--run.root", str(tmp_path), "--data", str(settings)]) == 2
    assert capsys.readouterr().err == "data.pairs must be greater than 0, not -3\n"


@pytest.mark.parametrize("dataset", registry.entries("dataset"))
def test_help_beside_a_dataset_explains_its_options(dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--data.dataset", dataset, "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  --data.{name} " in shown for name in registry.entries("dataset")[dataset].parameters)


def test_the_help_knows_the_options_that_name_a_component() -> None:
    assert NAMING == components.NAMING


def test_another_dataset_than_the_checkpoints_keeps_only_what_both_have() -> None:
    stored = {"dataset": "docstrings", "packages": ["numpy"], "max_bytes": 9, "length": 32, "tokenizer": "bytes"}
    for dataset, kept in ((None, {**stored}), ("text", {"dataset": "text", "length": 32, "tokenizer": "bytes"})):
        signature = sign(stored, {})
        data = settings_of({"config": {"data": stored}, "signature": signature}, {"data.dataset": dataset}.get)["data"]
        assert data == kept


def test_no_recipe_is_answered_with_the_names_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--trainer.max_steps", "1"]) == 2
    assert re.search(r"no recipe is given: set --recipe .* gpt2", capsys.readouterr().err)


@pytest.mark.parametrize("kind", ["text", "tensors", "module"])
def test_a_file_that_is_no_checkpoint_is_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "foreign.ckpt"
    if kind == "text":
        path.write_text("hello")
    else:
        torch.save({"weights": torch.zeros(2)} if kind == "tensors" else torch.nn.Linear(1, 1), path)
    assert main(["validate", "--ckpt_path", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: is ")


@pytest.mark.slow
def test_initial_values_and_dropout_have_seeds_of_their_own(fit: Fit) -> None:
    seeds = {"first": (1, 5), "other-dropout": (2, 5), "other-values": (1, 6)}
    found: dict[str, tuple[torch.Tensor, Any]] = {}
    for name, (everything, model) in seeds.items():
        options = ["--seed_everything", str(everything), "--model.seed", str(model), "--trainer.log_every_n_steps", "1"]
        folder = fit("--trainer.max_steps", "1", "--optimizer.lr", "1e-30", *options, name=name)
        state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        weight = next(value for key, value in state.items() if key.endswith("embedding.tokens.weight"))
        losses = (row["train/loss"] for row in read_rows(folder / "metrics.jsonl") if "train/loss" in row)
        found[name] = (weight, next(losses))
    (values, loss), (same, dropped), (others, _) = (found[name] for name in seeds)
    assert torch.equal(values, same)
    assert loss != dropped
    assert not torch.equal(values, others)


@pytest.mark.parametrize(("option", "slot"), [("type", "optimizer"), ("schedule", "schedule")])
def test_help_beside_an_optimizer_or_schedule_explains_its_options(
    option: str, slot: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, entry in registry.entries(slot).items():
        assert main(["fit", f"--optimizer.{option}", name, "--help"]) == 0
        shown = capsys.readouterr().out
        assert f"the {slot} {name}: " in shown
        assert all(f"  --optimizer.{parameter} " in shown for parameter in entry.parameters)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [["--optimizer.type", "muon"], ["--optimizer.schedule", "wsd"]])
def test_another_optimizer_or_schedule_continues_without_the_settings_of_the_old_one(
    settings: list[str], fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--optimizer.type", "adamw", "--optimizer.eps", "1e-7", "--optimizer.min_ratio", "0.2"]
    folder = fit("--trainer.max_steps", "2", *given, name=f"changed-{settings[1]}")
    checkpoint = folder / "checkpoints" / "last.ckpt"
    if settings[1] == "wsd":
        again = ["--ckpt_path", str(checkpoint), "--trainer.max_steps", "4", *settings]
        config = read_metadata(fit(*again, name=folder.name, given=[]) / "checkpoints" / "last.ckpt")["config"]
        assert (config["optimizer"]["eps"], config["optimizer"]["min_ratio"]) == (1e-7, 0.0)
    else:  # the state of another optimizer is no state of this one
        assert main(["fit", "--ckpt_path", str(checkpoint), "--trainer.max_steps", "4", *settings]) == 2
        assert "it has the state of optimizer adamw, not of muon" in capsys.readouterr().err
