"""Random components and options for `fit`, from the registry: a run, or one line that says what to change."""

import json
import os
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from random import Random
from typing import Any

import pytest

from blockformer.training.components import GROUPS
from registry import entries
from tests.faults.conftest import Answer
from tests.faults.test_command_lines import LONGEST, NUMBERS, TEXTS, at_most

Run = Callable[..., Answer]
YAML = (
    "null",
    "true",
    "[]",
    "[1]",
    "[a, b]",
    "{}",
    "{a: 1}",
    "{a: {}}",
    "{a: {dataset: [x]}}",
    "{a: {dataset: mqar}}",
    "{a: {dataset: text, files: TEXT}}",
    "{a: {dataset: text, files: TEXT, weight: -1}}",
    "{1: 2}",
    "{type: causal_lm}",
    "{type: distillation}",
    "[{match: x}]",
    "[{slot: norm, lr: 1e400}]",
    '{"*": 0.1}',
    "[0.5, 0.5]",
    "&a [*a]",
    "!!python/name:os.system",
    "[" * 200,
)
PLACES = ("TEXT", "TABLE", "CHATS", "FOLDER", "/dev/zero", "/dev/null", "/nowhere", "PIPE", "RUN", "DAMAGED")
USUAL: dict[type, tuple[str, ...]] = {
    int: ("0", "1", "2", "3", "5", "17", "300", "1000000000"),
    float: ("0", "0.01", "0.5", "0.99", "1", "1.5", "7", "1e30", "1e-30"),
    bool: ("true", "false"),
    type(None): ("null", "1", "2", "40", "0.5", "x", "TEXT"),
}
"""Values for options with a default of this type."""
UNUSED = ("docstrings", "cldr", "hub")  # they prepare much text, or ask the network
LEFT_OUT = ("packages", "path", "loss_chunk")
RECIPES = ("tiny_decoder", "tiny_decoder", "tiny_encoder", "tiny_encoder_decoder")
GENERAL: dict[str, tuple[str, ...]] = {
    "--data.length": ("8", "16", "64", *NUMBERS),
    "--data.batch_size": ("1", "3", *NUMBERS),
    "--data.validation": ("0", "0.5", *NUMBERS),
    "--data.seed": NUMBERS,
    "--optimizer.lr": ("1e-3", *NUMBERS),
    "--optimizer.groups": YAML,
    "--optimizer.train": ("*", "decoder.*", *TEXTS, *YAML),
    "--optimizer.freeze": ("*.norm.*", *TEXTS, *YAML),
    "--optimizer.ema": ("0.9", *NUMBERS),
    "--recipe.adapters": ('{"*.q": {rank: 2}}', "{x: {rank: 2}}", *YAML),
    "--recipe.head.type": ("pooled", "per_token", *TEXTS),
    "--recipe.extra_predictions": ("[sequential]", *YAML),
    "--trainer.max_steps": ("1", "2", "0", "-1", "x"),
    "--trainer.precision": ("bf16-mixed", "16-true", *TEXTS),
    "--trainer.val_check_interval": ("1", *NUMBERS),
    "--evaluations": ("{a: {type: samples}}", "{a: {type: generation, every: 1}}", *YAML),
    "--init-from": PLACES,
    "--decay-from": PLACES,
    "--ckpt_path": ("last", "best", *PLACES),
    "--run.monitor": ("val/loss", *TEXTS),
    "--run.save_every": ("1", *NUMBERS),
    "--seed_everything": NUMBERS,
}


@pytest.fixture(scope="module")
def places(fit: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the names in capitals mean."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "text.txt").write_text("the cat sat on the mat and the dog ate\n" * 200)
    rows = [{"text": f"a {n}", "target": f"b {n}", "label": n % 3, "score": n} for n in range(99)]
    (folder / "table.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    chat = {"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]}
    (folder / "chats.jsonl").write_text(f"{json.dumps(chat)}\n" * 99)
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    run = fit("--trainer.max_steps", "1", "--optimizer.schedule", "constant", name="for-fit-command-lines")
    (folder / "damaged.ckpt").write_bytes((run / "checkpoints" / "last.ckpt").read_bytes()[:-99])
    named = {"TEXT": "text.txt", "TABLE": "table.jsonl", "CHATS": "chats.jsonl", "FOLDER": "folder", "PIPE": "pipe"}
    return {name: str(folder / file) for name, file in named.items()} | {
        "RUN": str(run),
        "DAMAGED": str(folder / "damaged.ckpt"),
    }


def options_of(draw: Random) -> dict[str, str]:
    """Some components, and some of their options with any values."""
    given: dict[str, str] = {}
    for name, (group, _) in GROUPS.items():
        for option, slot in group.slots.items():
            known = [one for one in entries(slot) if one not in UNUSED]
            if name != "data" and draw.random() < 0.5:
                continue
            chosen = draw.choice(known)
            given[f"--{name}.{option}"] = chosen
            parameters = [one for one in entries(slot)[chosen].parameters if one not in LEFT_OUT]
            if "files" in parameters and draw.random() < 0.9:
                usual = {"chat": "CHATS", "text": "TEXT"}.get(chosen, "TABLE")
                given[f"--{name}.files"] = usual if draw.random() < 0.8 else draw.choice(PLACES)
            for parameter in draw.sample(parameters, min(len(parameters), draw.choice([0, 0, 1, 2]))):
                usual = USUAL.get(type(entries(slot)[chosen].parameters[parameter].default), YAML)
                any_value = (*NUMBERS, *TEXTS, *YAML, *PLACES)
                given[f"--{name}.{parameter}"] = draw.choice(usual if draw.random() < 0.7 else any_value)
    if has_own_ids(given["--data.dataset"]):
        given.pop("--data.tokenizer", None)
    elif draw.random() < 0.5:
        given["--data.tokenizer"] = "bytes"
    for option in draw.sample(sorted(GENERAL), draw.choice([0, 1, 2, 3])):
        given[option] = draw.choice(GENERAL[option])
    return given


def has_own_ids(dataset: str) -> bool:
    """Whether a dataset has token ids of its own."""
    return bool(getattr(entries("dataset")[dataset].block, "own_ids", False))


def command_line(draw: Random, places: dict[str, str], root: Path, number: int) -> list[str]:
    given: dict[str, Any] = {
        "--recipe": draw.choice(RECIPES),
        "--trainer.max_steps": "1",
        "--data.length": "64",
        "--data.batch_size": "4",
        "--optimizer.warmup_steps": "0",
    }
    given |= options_of(draw)
    if "--decay-from" in given or "--ckpt_path" in given:
        given = {option: given[option] for option in given if draw.random() < 0.4 or option.endswith(("from", "path"))}
    always = {"--trainer.accelerator": "cpu", "--trainer.enable_progress_bar": "false", "--run.wandb": "disabled"}
    always |= {"--run.root": str(root), "--run.name": f"n{number}"}
    words = ["fit"]
    for option, value in (given | always).items():
        words.append(f"{option}={reduce(lambda text, one: text.replace(*one), places.items(), value)}")
    return words


@pytest.mark.slow
def test_any_components_and_options_train_or_are_refused_in_lines(
    places: dict[str, str], tmp_path: Path, faults: int, answer: Run, tally: Callable[[str, str], None], canary: Path
) -> None:
    for number in range(max(5, faults // 4)):
        words = command_line(Random(f"fit {number}"), places, tmp_path, number)
        with at_most(LONGEST):
            found = answer(*words)
        tally("fit", {0: "trained", 1: "failed", 2: "refused"}[found.status])
        assert found.problem is None, (words, found)
        assert found.status != 1, (words, found)
