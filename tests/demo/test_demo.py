import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

import blockformer as bf
from blockformer.demo import explain as demo_explain
from blockformer.demo import lm, masked, runs, translation
from blockformer.demo.__main__ import DEMOS, main
from blockformer.demo.runs import CONFIGS, Run
from blockformer.demo.sentences import ANIMALS
from blockformer.explanation import Explanation, explain
from registry import load_recipe

FACTS = {
    "variant": "mine",
    "model": {"parameters": 1234567},
    "data": {"xz_bits_per_byte": 2.0, "seed": 0},
    "recipe": {"vocab_size": 260},
    "objective": {"type": "masked_lm"},
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run's folder as `fit` leaves it, with figures that are easy to tell apart."""
    rows = [
        {"step": 1, "tokens_per_second": 10.0, "peak_memory_mib": 5.0},
        {"step": 2, "tokens_per_second": 4000.0, "peak_memory_mib": 700.0},
        {"step": 2, "val/loss": 9.0, "val/bits_per_byte": 9.0},
        {"step": 3, "tokens_per_second": 5000.0, "peak_memory_mib": 600.0},
        {"step": 3, "val/loss": 1.0, "val/bits_per_byte": 1.25},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "facts.json").write_text(json.dumps(FACTS))
    (tmp_path / "text.txt").write_text("aaaaaaaaab" * 40 + "\n\n" + "aaaaaaaaab" * 40 + "\n\n" + "aaaaaaaaab" * 40)
    data = {"dataset": "text", "files": [str(tmp_path / "text.txt")], "tokenizer": "bytes", "length": 20}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    return Run(tmp_path)


def test_the_table_shows_the_last_validation_the_usual_speed_and_the_most_memory(run) -> None:
    console = Console(width=120, record=True)
    console.print(lm.table([run]))
    text = console.export_text()
    (row,) = (line for line in text.splitlines() if "mine" in line)
    assert row.strip("│ ").replace("│", "").split() == ["mine", "1.250", "1,234,567", "4,000", "700", "MiB"]
    assert any("xz" in line and "2.000" in line for line in text.splitlines())


def test_the_majority_is_counted_on_the_targets_of_the_validation(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("BLOCKFORMER_CACHE", str(tmp_path / "cache"))
    share = masked.majority(run)
    targets = torch.cat([batch["targets"].flatten() for batch in run.data().loader("validation")])
    scored = targets[targets >= 0]
    assert share == pytest.approx((scored == ord("a") + 4).float().mean().item())
    assert 0.7 < share < 1


def test_exact_match_and_chrf_tell_right_from_wrong() -> None:
    assert translation.scores(["dienstags", "mittwochs"], ["dienstags", "mittwochs"]) == (1.0, pytest.approx(100.0))
    exact, chrf = translation.scores(["dienstags", "mittwoch"], ["dienstags", "mittwochs"])
    assert exact == 0.5
    assert 0 < chrf < 100


def test_where_a_run_lies_is_said_with_the_commands_that_show_it(run, capsys) -> None:
    offline = run.folder / "wandb" / "offline-run-20260101_000000-abc"
    offline.mkdir(parents=True)
    runs.say_where(run)
    out = capsys.readouterr().out
    assert f"wandb leet {offline}\n" in out
    assert f"wandb sync {offline}\n" in out


def test_the_variant_of_the_language_model_differs_in_its_feedforward_alone() -> None:
    base, variant = (load_recipe(recipe).dump() for recipe in lm.RECIPES)
    base["decoder"]["layer"]["feedforward"] = variant["decoder"]["layer"]["feedforward"] = "left out"
    assert base == variant


@pytest.mark.parametrize("recipe", [*lm.RECIPES, "demo_translation", "demo_masked"])
def test_a_demo_s_model_has_about_a_million_parameters(recipe) -> None:
    assert 0.3e6 < bf.check(load_recipe(recipe)).size < 1.2e6


def test_every_demo_has_a_configuration_and_a_make_target() -> None:
    makefile = (CONFIGS.parents[1] / "Makefile").read_text()
    for demo in DEMOS:
        assert yaml.safe_load((CONFIGS / f"{demo}.yaml").read_text())["trainer"]["max_steps"] > 100
        assert f"python -m blockformer.demo {demo}\n" in makefile


@pytest.mark.parametrize("option", ["--run.name", "--run.root=elsewhere"])
def test_the_folder_of_a_demo_s_run_is_its_own(option, capsys, monkeypatch) -> None:
    monkeypatch.setattr(runs, "prepare", lambda config: None)
    monkeypatch.setattr(lm, "prepare", lambda config: None)
    assert main(["lm", option, "x"]) == 2
    assert "names its own runs" in capsys.readouterr().err


def test_demos_are_a_command(tmp_path) -> None:
    command = [sys.executable, "-P", "-m", "blockformer.demo", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(CONFIGS.parents[1])}
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert all(f"{demo}:" in answer.stdout for demo in DEMOS)


@pytest.mark.slow
def test_a_run_that_fails_ends_the_demo_with_status_2(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lm, "prepare", lambda config: None)
    assert main(["lm", "--trainer.max_stps", "3"]) == 2
    error = capfd.readouterr().err
    assert "max_stps" in error
    assert "the run ended with status 2" in error
    assert "Traceback" not in error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("demo", "shown", "times"),
    [
        ("lm", ["bits per byte", "xz", "demo_lm_no_feedforward continues"], 2),  # the second time beside the first
        ("translation", ["exact match", "chrF", "expected, if different"], 1),
        ("explain", ["The pages", "runs/explain/encoder_decoder.html"], 1),
        ("masked", ["always predicting the most common byte", "Return the num"], 1),
    ],
)
def test_a_demo_runs_from_its_first_word_to_its_last(demo, shown, times, tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setenv("BLOCKFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(CONFIGS.parents[1]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(translation, "SCORED", 40)
    steps = ["--trainer.max_steps", "4", "--trainer.val_check_interval", "2", "--trainer.limit_val_batches", "5"]
    for number in range(1, times + 1):
        assert main([demo, *steps]) == 0
        out = capfd.readouterr().out
        for text in [*shown, "wandb leet", "wandb sync"]:
            assert text in out
        assert len(list((tmp_path / "runs").glob("*/metrics.jsonl"))) == number * {"lm": 2, "explain": 3}.get(demo, 1)


@pytest.mark.slow  # trains three models, about 40 s of processor time
def test_the_models_of_make_explain_have_learned_what_each_animal_eats(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setenv("BLOCKFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(CONFIGS.parents[1]))
    monkeypatch.chdir(tmp_path)
    assert main(["explain"]) == 0
    said = capfd.readouterr().out
    folders = {path.name.rpartition("-")[0].rpartition("-")[0]: path for path in Path("runs").glob("tiny_*")}
    for recipe in ("tiny_decoder", "tiny_encoder", "tiny_encoder_decoder"):
        assert f"{recipe}: done: runs/{recipe}-" in said
    for one, other in zip(ANIMALS, ANIMALS[1:] + ANIMALS[:1], strict=True):
        sentence = f"{one.name} sees {other.name} and eats"
        decoder = explain(folders["tiny_decoder"], f"{sentence} {one.food}")
        assert best_at(decoder, -2) == (f" {one.food}", pytest.approx(1, abs=0.2))
        assert best_at(explain(folders["tiny_encoder"], f"{sentence}_"), -1)[0] == f" {one.food}"
        written = explain(folders["tiny_encoder_decoder"], f"{sentence} {one.food}").texts[1]
        german = f"{one.german} sieht {other.german} und frisst {one.german_food}"
        assert "".join(token.text for token in written[1:]) == german
    decoder, encoder = (
        explain(folders["tiny_decoder"], demo_explain.TEXT),
        explain(folders["tiny_encoder"], demo_explain.BLANK),
    )
    assert most_attention(decoder, "decoder", " eats", "cat") > 0.7
    assert most_attention(encoder, "encoder", "<mask>", "cat") > 0.4
    both = explain(folders["tiny_encoder_decoder"], demo_explain.TEXT)
    assert most_attention(both, "decoder", " sieht", " dog", "cross") > 0.7  # the next word is "Hund"


def best_at(explanation: Explanation, place: int) -> tuple[str, float]:
    """The most probable token at a place of the text, and its probability."""
    token, share = explanation.predictions[place].best[0]
    return token.text, share


def most_attention(explanation: Explanation, stack: str, query: str, key: str, mixer: str = "mixer") -> float:
    """The largest weight of any head and layer from one token to another."""
    steps = [
        step
        for step in explanation.steps
        if step.name == "weights" and step.path.startswith(f"{stack}.") and step.path.endswith(f".{mixer}")
    ]
    assert steps
    texts = explanation.texts
    queries, keys = ([token.text for token in texts[place]] for place in (steps[0].sequence, steps[0].keys))
    return max(float(step.value.data[:, queries.index(query), keys.index(key)].max()) for step in steps)
