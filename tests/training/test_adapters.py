"""Training with adapters: what is trained, from `--init-from` without a recipe to a merged checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import blockformer as bf
from blockformer.assembly.checkpoint import model_weights, read_checkpoint, read_metadata
from blockformer.cli.main import main
from blockformer.errors import UserError
from blockformer.huggingface import read_source
from blockformer.inspection.memory import memory
from blockformer.training.loggers.file_logger import read_rows
from blockformer.training.optimizers import OptimizerSettings
from blocks.models.base import Model
from registry import load_recipe

Fit = Callable[..., Path]
ADAPTERS = ("--recipe.adapters", '{"*.mixer.[qv]": {rank: 4}}')


def small(**overrides: Any) -> Model:
    with torch.device("meta"):
        return bf.build("tiny_decoder", overrides, device="meta")


def trained_names(model: Model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


TRAINED: dict[str, tuple[dict[str, list[str]], Callable[[str], bool]]] = {
    "adapters alone": ({}, lambda name: ".adapter." in name),
    "what is named too": ({"train": ["*norm*"]}, lambda name: ".adapter." in name or "norm" in name),
    "all": ({"train": ["*"]}, lambda name: True),
    "but for the frozen": ({"freeze": ["*.b"]}, lambda name: name.endswith(".adapter.a")),
}


@pytest.mark.parametrize("case", TRAINED)
def test_adapters_are_trained_with_what_is_named(case: str) -> None:
    settings, wanted = TRAINED[case]
    model = small(adapters={"*": "lora"})
    OptimizerSettings(**settings).choose_trained(model)
    assert trained_names(model) == {name for name, _ in model.named_parameters() if wanted(name)}


def test_without_adapters_only_what_is_named_is_trained() -> None:
    model = small()
    OptimizerSettings(train=["embedding.*", "*.mixer.*"], freeze=["*.q.weight"]).choose_trained(model)
    wanted = {
        n for n, _ in model.named_parameters() if n.startswith("embedding") or (".mixer." in n and ".q." not in n)
    }
    assert trained_names(model) == wanted


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": ["nothing"]}, "optimizer.train: no parameter has a name like 'nothing'; one is called"),
        ({"train": []}, "optimizer.train: leaves nothing to train"),
        ({"train": ["*.q.weight"], "freeze": ["*.mixer.*"]}, "optimizer.freeze: leaves nothing to train"),
    ],
)
def test_impossible_choices_are_refused(settings: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        OptimizerSettings(**settings).choose_trained(small())


def test_memory_counts_what_is_trained() -> None:
    recipe = load_recipe("tiny_decoder", {"adapters": {"*": {"rank": 1}}})
    plain, adapted = (memory(one, "fp32", 1, 8) for one in (load_recipe("tiny_decoder"), recipe))
    model = small(adapters={"*": {"rank": 1}})
    size = model.parameters_by_slot()["adapter"]
    assert adapted.gradients == 4 * size
    assert adapted.parameters - plain.parameters == 4 * size
    assert plain.optimizer > 8 * small().size > adapted.optimizer > 8 * size


# runs


@pytest.fixture(scope="module")
def base(fit: Fit) -> Path:
    """A run that has learned something."""
    return fit("--trainer.max_steps", "10", "--optimizer.lr=1e-2", name="base")


@pytest.fixture(scope="module")
def without_recipe(arguments: list[str]) -> list[str]:
    """The arguments of the fixture `fit` without the recipe and its overrides."""
    place = arguments.index("--data.dataset")
    return arguments[place:]


@pytest.fixture(scope="module")
def tuned(fit: Fit, base: Path, without_recipe: list[str]) -> Path:
    """That run's model, trained further in adapters alone; its recipe comes from it."""
    options = ("--init-from", str(base), *ADAPTERS, "--trainer.max_steps", "6", "--optimizer.lr=2e-2")
    return fit(*options, name="tuned", given=without_recipe)


def last(folder: Path) -> dict[str, Any]:
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")


def losses(folder: Path) -> list[float]:
    return [row["train/loss"] for row in read_rows(folder / "metrics.jsonl") if "train/loss" in row]


@pytest.mark.slow
def test_only_adapters_are_trained_and_have_moments(base: Path, tuned: Path) -> None:
    before, content = model_weights(last(base)), last(tuned)
    after = model_weights(content)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    added = {name: tensor for name, tensor in after.items() if name not in before}
    assert added.keys() == {f"decoder.layers.0.mixer.{name}.adapter.{leaf}" for name in "qv" for leaf in "ab"}
    assert all(bool(tensor.any()) for tensor in added.values())
    (state,) = content["optimizer_states"]
    moments: list[Tensor] = [one["exp_avg"] for one in state["state"].values()]
    assert sum(one.numel() for one in moments) == sum(tensor.numel() for tensor in added.values())
    facts = json.loads((tuned / "facts.json").read_text())["model"]
    assert facts["parameters_trained"] == facts["parameters_by_slot"]["adapter"] < facts["parameters"]


def test_the_recipe_of_the_source_is_taken_with_the_overrides(base: Path, tuned: Path) -> None:
    source, made = load_recipe(base / "recipe.yaml").dump(), load_recipe(tuned / "recipe.yaml").dump()
    assert set(made.pop("adapters")) == {"*.mixer.[qv]"}
    assert source.pop("adapters") is None
    assert made == source


@pytest.mark.slow
def test_a_run_repeats_from_its_configuration_and_continues(
    fit: Fit, tuned: Path, runs: Path, without_recipe: list[str]
) -> None:
    again = fit("--config", str(tuned / "config.yaml"), name="tuned-again", given=["--run.wandb", "disabled"])
    assert losses(again) == losses(tuned)
    more = ("--ckpt_path", "last", "--trainer.max_steps", "8")
    assert main(["fit", *without_recipe, "--run.root", str(runs), "--run.name", "tuned-again", *more]) == 0
    assert read_metadata(again / "checkpoints" / "last.ckpt")["step"] == 8
    before, after = model_weights(last(tuned)), model_weights(last(again))
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(".adapter." in name for name in changed)


def test_a_merged_checkpoint_computes_the_same_and_can_be_used(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, source = tmp_path / "merged.ckpt", tuned / "checkpoints" / "last.ckpt"
    assert main(["merge", str(source), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 2 adapters folded into the weights of their projections\n"
    adapted, merged = bf.load(source), bf.load(out)
    tokens = torch.arange(20).view(2, 10)
    torch.testing.assert_close(merged(tokens), adapted(tokens), rtol=1e-4, atol=1e-5)
    assert not any("adapter" in name for name in merged.state_dict())
    assert main(["validate", "--ckpt_path", str(out), "--out", str(tmp_path / "figures")]) == 0
    assert main(["generate", str(out), "--prompt", "the", "--max-new-tokens", "3"]) == 0
    for arguments, message in {
        ("merge", str(out), "--out", str(tmp_path / "again.ckpt")): "has no adapters, so there is nothing to merge",
        ("merge", str(source), "--out", str(out)): "exists already",
    }.items():
        capsys.readouterr()
        assert main(list(arguments)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


def test_a_merged_checkpoint_names_no_parameters_of_adapters(
    base: Path, fit: Fit, without_recipe: list[str], tmp_path: Path
) -> None:
    options = (
        "--init-from",
        str(base),
        *ADAPTERS,
        "--optimizer.train",
        '["*.a", "*norm*"]',
        "--trainer.max_steps",
        "1",
    )
    folder = fit(*options, name="part-of-adapters", given=without_recipe)
    out = tmp_path / "merged.ckpt"
    assert main(["merge", str(folder), "--out", str(out)]) == 0
    assert read_metadata(out)["config"]["optimizer"].keys().isdisjoint({"train", "freeze", "groups"})
    assert main(["validate", "--ckpt_path", str(out), "--out", str(tmp_path / "figures")]) == 0


def test_mfu_is_left_out_where_parameters_are_frozen(base: Path, tuned: Path) -> None:
    rows = {run: [row for row in read_rows(run / "metrics.jsonl") if "train/loss" in row] for run in (base, tuned)}
    assert all("mfu" in row for row in rows[base])
    assert not any("mfu" in row for row in rows[tuned])


def test_an_export_is_merged(tuned: Path) -> None:
    source = read_source(tuned / "checkpoints" / "last.ckpt")
    assert source.merged == 2
    assert source.recipe.dump()["adapters"] is None
    assert list(source.model.state_dict()) == list(bf.build(source.recipe).state_dict())
    adapted, tokens = bf.load(tuned / "checkpoints" / "last.ckpt"), torch.arange(20).view(2, 10)
    torch.testing.assert_close(source.model(tokens), adapted(tokens), rtol=1e-4, atol=1e-5)


def test_a_plain_run_that_begins_with_adapters_folds_them_in(
    fit: Fit, tuned: Path, without_recipe: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--init-from", str(tuned / "checkpoints" / "last.ckpt"), "--recipe.adapters", "null")
    capsys.readouterr()
    plain = fit(*options, "--trainer.max_steps", "1", "--optimizer.lr=1e-9", name="plain", given=without_recipe)
    assert "its adapter is folded in" in capsys.readouterr().out
    model, tokens = bf.load(plain / "checkpoints" / "last.ckpt"), torch.arange(20).view(2, 10)
    adapted = bf.load(tuned / "checkpoints" / "last.ckpt")
    torch.testing.assert_close(model(tokens), adapted(tokens), rtol=1e-4, atol=1e-5)
