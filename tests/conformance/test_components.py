"""Every dataset, tokenizer, objective, optimizer, schedule and evaluation passes every check of its slot."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from safetensors.torch import save_model

import blockformer.data.datasets
import blockformer.data.tokenizers
import blockformer.training.evaluations
import blockformer.training.objectives
import blockformer.training.optimizers  # noqa: F401  (importing registers)
from blockformer.assembly.loading import RECIPE, WEIGHTS
from blockformer.conformance import BlockCase, Check, NotApplicable, block_cases, parametrize_checks, run_checks
from blockformer.conformance.block_case import NEEDS
from blockformer.conformance.components import table
from blockformer.conformance.components.examples import TEXTS, example_model
from blockformer.conformance.table import check_name
from blockformer.training.objectives import CausalLM
from registry import entries, option_slots, spec_of
from registry.text import as_yaml
from tests.data.chats import SYSTEM, write_tokenizer

SMALL: dict[tuple[str, str], dict[str, Any]] = {
    ("dataset", "docstrings"): {"max_bytes": 20_000},
    ("tokenizer", "unigram"): {"vocab_size": 300},
    ("tokenizer", "bpe"): {"vocab_size": 300},
    ("tokenizer", "wordpiece"): {"vocab_size": 300},
}
"""Parameters with which a check takes little time."""
SLOW = ("dataset/docstrings", "dataset/cldr")
"""Cases that read much."""
WITH_OPTIONS = ("optimizer", "schedule", "objective")
"""Slots whose options change what is computed."""


def cases() -> list[BlockCase]:
    """All components with the parameters that they have, or need, here."""
    found = [case for slot in option_slots() for name in entries(slot) for case in block_cases(slot, name)]
    return [BlockCase(case.slot, case.name, SMALL.get((case.slot, case.name), {})) for case in found]


@parametrize_checks([case for case in cases() if not case.id.startswith(SLOW)])
def test_component(case: BlockCase, check: Check) -> None:
    check(case)


@pytest.mark.slow
@parametrize_checks([case for case in cases() if case.id.startswith(SLOW)])
def test_component_that_reads_much(case: BlockCase, check: Check) -> None:
    check(case)


@pytest.mark.slow
@parametrize_checks([BlockCase(slot, name) for slot in WITH_OPTIONS for name in entries(slot)], options=True)
def test_an_option_of_a_component_breaks_nothing(case: BlockCase, check: Check) -> None:
    check(case)


def write_rows(path: Path, row: Any) -> str:
    path.write_text("".join(json.dumps(row(number, text)) + "\n" for number, text in enumerate(TEXTS)))
    return str(path)


def chat(number: int, text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"{number} {text}"}, {"role": "assistant", "content": text}]}


def write_teacher(folder: Path) -> str:
    """An imported folder with the model that an objective is tried on."""
    folder.mkdir()
    model = example_model(CausalLM())
    (folder / RECIPE).write_text(as_yaml(spec_of(model).dump()))
    save_model(model, str(folder / WEIGHTS))
    return str(folder)


def write_task(folder: Path, rows: str) -> str:
    """A folder with a task of the harness."""
    folder.mkdir()
    task = {
        "task": "own",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": rows}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    (folder / "own.yaml").write_text(json.dumps(task))
    return str(folder)


def of_files(folder: Path) -> list[BlockCase]:
    """Components that read files."""
    rows = write_rows(folder / "rows.jsonl", lambda n, text: {"text": f"{n} {text}", "label": n % 3, "score": n})
    chats, template = write_rows(folder / "chats.jsonl", chat), folder / "own.jinja"
    template.write_text(SYSTEM, encoding="utf-8")
    (text := folder / "text.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    (pairs := folder / "pairs.tsv").write_text("".join(f"{n} {one}\t{one}\n" for n, one in enumerate(TEXTS)))
    sources = {"a": {"dataset": "table", "files": rows}, "b": {"dataset": "text", "files": str(text), "weight": 2}}
    given = {
        "chat": {"files": chats, "chat_template": str(template)},
        "mixture": {"sources": sources},
        "pairs": {"files": str(pairs)},
        "table": {"files": rows},
        "table_classes": {"files": rows},
        "table_pairs": {"files": rows, "source_column": "text", "target_column": "text"},
        "table_scores": {"files": rows},
        "text": {"files": str(text)},
    }
    np.save(folder / "ids.npy", np.random.default_rng(0).integers(0, 50, 4000).astype(np.uint16))
    given["token_files"] = {"files": str(folder / "ids.npy"), "vocab_size": 50, "separator": 7}
    datasets.Dataset.from_dict({"text": list(TEXTS)}).save_to_disk(folder / "saved")
    given["hub"] = {"path": str(folder / "saved")}
    others = [
        ("tokenizer", "file", {"tokenizer_path": str(write_tokenizer(folder / "tokenizer", None))}),
        ("objective", "distillation", {"teacher": write_teacher(folder / "teacher")}),
        ("evaluation", "harness", {"tasks": ("own",), "include": write_task(folder / "tasks", rows)}),
    ]
    cases = [("dataset", name, params) for name, params in given.items()]
    return [BlockCase(*one) for one in (*cases, *others)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Use TaskManager.load:DeprecationWarning")  # of the harness, by itself
def test_components_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    report = run_checks(of_files(tmp_path))
    assert [f"{one.id}: {one.reason}" for one in report.outcomes if not one.good] == []
    assert not [one.id for one in report.outcomes if one.reason.startswith(NEEDS)]


@pytest.mark.slow
def test_every_check_applies_to_something(tmp_path: Path) -> None:
    of_datasets = [case for case in of_files(tmp_path) if case.slot == "dataset"][:4]
    for slot, checks in table.BY_SLOT.items():
        assert slot in option_slots()
        for check in checks:
            tried = [case for case in cases() if case.slot == slot and not case.id.startswith(SLOW)]
            if slot == "dataset":
                tried = of_datasets + tried
            assert any(_applies(check, case) for case in tried), check_name(check)


def _applies(check: Check, case: BlockCase) -> bool:
    try:
        check(case)
    except NotApplicable:
        return False
    return True


def test_every_slot_of_options_has_checks() -> None:
    assert {*option_slots()} == {*table.BY_SLOT}
