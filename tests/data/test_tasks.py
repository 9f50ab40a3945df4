"""Synthetic tasks: their answers, found again from the tokens alone, and which rows are drawn when."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from blockformer.data import task_rows
from blockformer.data.datasets.base import UNSCORED, Task
from blockformer.data.datasets.mqar import MQAR
from blockformer.data.module import TextData
from blockformer.data.options import class_of
from blockformer.data.randomness import Draws
from blockformer.errors import DataError
from blockformer.training.objectives import MaskedLM
from registry import entries

TASKS = [name for name in entries("dataset") if issubclass(class_of(name), Task)]
LONGER = [name for name in TASKS if "evaluation_length" in entries("dataset")[name].parameters]
Answers = dict[int, int]


def _mqar(tokens: Sequence[int], data: TextData) -> Answers:
    known = dict(zip(tokens[0:16:2], tokens[1:16:2], strict=True))
    return {place: known[token] for place, token in enumerate(tokens) if place >= 16 and token in known}


def _parity(tokens: Sequence[int], data: TextData) -> Answers:
    first = 0 if len(tokens) == data.length else data.length
    return {place: sum(tokens[: place + 1]) % 2 for place in range(first, len(tokens))}


def _induction(tokens: Sequence[int], data: TextData) -> Answers:
    start = tokens[:16]
    return {place: start[start.index(tokens[place]) + 1] for place in range(16, len(tokens) - 1, 2)}


def _copy(tokens: Sequence[int], data: TextData) -> Answers:
    blank, mark = 26, 27
    text = [token for token in tokens[: tokens.index(mark)] if token != blank]
    return {tokens.index(mark) + place: symbol for place, symbol in enumerate(text)}


def _selective_copy(tokens: Sequence[int], data: TextData) -> Answers:
    blank, mark = 16, 17
    text = [token for token in tokens[: tokens.index(mark)] if token != blank]
    return {tokens.index(mark) + place: symbol for place, symbol in enumerate(text)}


def _memorisation(tokens: Sequence[int], data: TextData) -> Answers:
    known: dict[tuple[int, int], int] = {}
    for step in range(8):  # facts are learned from other rows
        batch = TextData("memorisation", length=256, seed=9).loader("train").batch(step)
        for row, targets in zip(batch["tokens"].tolist(), batch["targets"].tolist(), strict=True):
            known |= {(row[place - 1], row[place]): targets[place] for place in range(1, len(row), 2)}
    return {place: known[tokens[place - 1], tokens[place]] for place in range(1, len(tokens), 2)}


SOLVERS: dict[str, Callable[[Sequence[int], TextData], Answers]] = {
    "mqar": _mqar,
    "parity": _parity,
    "induction": _induction,
    "copy": _copy,
    "selective_copy": _selective_copy,
    "memorisation": _memorisation,
}


def _rows(data: TextData, split: Any, batches: int = 1) -> list[tuple[list[int], list[int]]]:
    found = [data.loader(split).batch(step) for step in range(batches)]
    return [row for batch in found for row in zip(batch["tokens"].tolist(), batch["targets"].tolist(), strict=True)]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("name", TASKS)
def test_answers_follow_from_the_tokens_and_nothing_else_is_scored(name: str, split: str) -> None:
    data = TextData(name, length=64, batch_size=4)
    for tokens, targets in _rows(data, split):
        scored = {place: target for place, target in enumerate(targets) if target != UNSCORED}
        assert scored
        found = SOLVERS[name](tokens, data)
        assert scored.items() <= found.items() if name == "mqar" else scored == found  # a filler may be a key, too
        assert max(*tokens, *scored.values()) < data.vocab_size


@pytest.mark.parametrize("name", LONGER)
def test_rows_of_evaluation_may_be_longer(name: str) -> None:
    data = TextData(name, length=64, batch_size=4, evaluation_length=160)
    assert data.loader("train").batch(0)["tokens"].shape == (4, 64)
    for tokens, targets in _rows(data, "validation"):
        assert len(tokens) == data.longest == 160
        found = SOLVERS[name](tokens, data)
        scored = {place: target for place, target in enumerate(targets) if target != UNSCORED}
        assert max(scored) >= 64
        assert scored.items() <= found.items()


@pytest.mark.parametrize("name", TASKS)
def test_each_key_of_a_row_is_asked_for_or_enough_others_are(name: str) -> None:
    scored = [sum(target != UNSCORED for target in targets) for _, targets in _rows(TextData(name, length=64), "train")]
    at_least = {"mqar": 8, "parity": 64, "memorisation": 32, "induction": 24, "copy": 1, "selective_copy": 8}
    assert min(scored) >= at_least[name]
    assert name == "copy" or min(scored) == max(scored)


SMALL: dict[str, dict[str, Any]] = {
    "mqar": {"pairs": 2, "key_tokens": 2, "value_tokens": 2, "length": 8},
    "parity": {"length": 8},
    "memorisation": {"symbols": 2, "values": 2, "length": 8},
    "induction": {"context": 3, "symbols": 3, "length": 9},
    "copy": {"symbols": 2, "length": 16},
    "selective_copy": {"items": 2, "symbols": 2, "length": 8},
}


@pytest.mark.parametrize("name", TASKS)
def test_no_row_to_train_on_is_validated_or_tested_on(name: str) -> None:
    data = TextData(name, **SMALL[name], batch_size=500)
    rows = {
        split: {tuple(tokens) for tokens, _ in _rows(data, split, batches)}
        for split, batches in (("train", 8), ("validation", 2), ("test", 2))
    }
    assert all(rows.values())
    assert not rows["train"] & rows["validation"]
    assert not rows["train"] & rows["test"]
    assert not rows["validation"] & rows["test"]


def test_with_too_few_different_rows_a_split_is_refused() -> None:
    data = TextData("selective_copy", items=1, symbols=1, length=3)
    loaders = [data.loader(split) for split in ("train", "validation", "test")]

    def draw() -> None:
        for loader in loaders:
            loader.batch(0)

    with pytest.raises(DataError, match=r"too few different rows of 3 tokens .*: raise data\.length"):
        draw()


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_decides_what_is_trained_on_and_never_what_is_validated_on(name: str) -> None:
    first, again, other = (TextData(name, length=64, seed=seed) for seed in (0, 0, 1))
    for split in ("validation", "test"):
        assert torch.equal(first.loader(split).batch(0)["tokens"], other.loader(split).batch(0)["tokens"])
    train = [data.loader("train").batch(3)["tokens"] for data in (first, again, other)]
    assert torch.equal(train[0], train[1])
    assert not torch.equal(train[0], train[2])


@pytest.mark.parametrize("name", TASKS)
def test_rows_that_are_too_large_to_be_kept_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = TextData(name, length=64, batch_size=4).loader("validation").batch(2)
    monkeypatch.setattr(task_rows, "_KEPT", 1000)
    drawn, sizes = TextData(name, length=64, batch_size=4).loader("validation"), list[int]()
    rows = class_of(name).rows

    def counted(task: Task, draws: Draws, length: int, trained: int) -> Any:
        found = rows(task, draws, length, trained)
        sizes.append(len(found[0]))
        return found

    monkeypatch.setattr(class_of(name), "rows", counted)
    batch = drawn.batch(2)
    assert all(torch.equal(batch[key], kept[key]) for key in kept)
    assert max(sizes) <= 4


def test_every_epoch_has_new_rows_and_processes_share_a_batch() -> None:
    data = TextData("parity", length=32, batch_size=8)
    loader = data.loader("train")
    rows = {
        tuple(row) for step in (0, 1, len(loader), len(loader) + 1) for row in loader.batch(step)["tokens"].tolist()
    }
    assert len(rows) == 32
    whole = data.loader("train").batch(5)["tokens"]
    parts = [data.loader("train", rank=rank, world=2).batch(5)["tokens"] for rank in (0, 1)]
    assert all(torch.equal(part, whole[rank::2]) for rank, part in enumerate(parts))


@pytest.mark.parametrize("name", TASKS)
def test_chance_is_the_share_of_the_most_frequent_answer(name: str) -> None:
    data = TextData(name, length=64, batch_size=1000)
    answers = Counter(target for _, targets in _rows(data, "train", 2) for target in targets if target != UNSCORED)
    share = max(answers.values()) / sum(answers.values())
    assert share == pytest.approx(data.facts()["chance"], rel=0.15)
    assert data.facts()["ceiling"] == 1.0
    assert f"guessing reaches {data.facts()['chance']:.3g}" in data.notes("validation")[0]


def test_questions_of_mqar_follow_soon_as_numpys_choice_without_replacement_draws_them() -> None:
    places, pairs, power = 24, 4, 0.01
    rates = np.arange(1, places + 1) ** (power - 1)
    generator = np.random.default_rng(0)
    theirs = [generator.choice(places, pairs, replace=False, p=rates / rates.sum()) for _ in range(4000)]
    ours = MQAR(pairs=pairs, power=power)._gaps(Draws(0, "test", np.arange(4000)), places)
    for column in range(pairs):
        wanted = np.bincount(np.array(theirs)[:, column], minlength=places) / 4000
        found = np.bincount(ours[:, column], minlength=places) / 4000
        assert np.abs(wanted - found).max() < 0.03  # 4 standard errors of the difference at most
    assert all(len(set(row)) == pairs for row in ours.tolist())


def test_draws_of_a_row_depend_on_its_index_alone() -> None:
    whole, part = (Draws(3, "test", np.array(rows), 2) for rows in ([5, 6, 7], [7, 5]))
    for count in (4, 9):
        first, other = whole.bits(count), part.bits(count)
        assert (first[[2, 0]] == other).all()
    uniform = Draws(0, "test", np.arange(500)).uniform(200)
    assert abs(uniform.mean() - 0.5) < 0.005
    assert abs(np.corrcoef(uniform[:, 0], uniform[:, 1])[0, 1]) < 0.2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dataset": "mqar", "tokenizer": "bytes"}, r"data\.tokenizer has no effect with dataset 'mqar'; remove it"),
        (
            {"dataset": "mqar", "mask_token": "x"},
            r"data\.mask_token is a setting of tokenizer 'file', and has no effect with dataset 'mqar'; remove it",
        ),
        ({"dataset": "parity", "validation": 0.1}, r"data\.validation has no effect with dataset 'parity'; remove it"),
        (
            {"dataset": "copy", "test": 0.5, "vocab_size": 9},
            r"vocab_size is a setting of .*no effect with dataset 'copy'",
        ),
        ({"dataset": "mqar", "length": 16}, r"data\.length 16 is too short: mqar needs at least 32 with these options"),
        ({"dataset": "mqar", "evaluation_length": 64}, r"data\.evaluation_length 64 is less than data\.length 128"),
        ({"dataset": "mqar", "pairs": 65}, r"data\.pairs 65 is more than data\.key_tokens 64"),
        ({"dataset": "induction", "context": 33}, r"data\.context 33 must be at least 2 and at most data\.symbols 32"),
        ({"dataset": "selective_copy", "items": 17}, r"data\.items 17 is more than data\.symbols 16"),
        ({"dataset": "mqar", "power": 1e9}, r"data\.power 1e\+09: give at most 10"),
        (
            {"dataset": "memorisation", "symbols": 50_000},
            r"data\.symbols 50000: makes 2\.5e\+09 facts; give",
        ),
        ({"dataset": "memorisation", "values": 10**30}, r"data\.values 1000\d+: give at most 4294967296"),
        ({"dataset": "copy", "symbols": 1}, r"data\.symbols 1: .*give at least 2"),
        (
            {"dataset": "parity", "objective": MaskedLM()},
            "parity: choose docstrings, hub, mixture, table or",
        ),
        ({"dataset": "memorisation", "evaluation_length": 256}, "is a setting of dataset .*'mqar'.*'memorisation'"),
    ],
)
def test_what_means_nothing_for_a_task_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        TextData(**settings)


def test_a_tasks_rows_are_no_text() -> None:
    data = TextData("parity")
    assert data.tokenizer is None
    with pytest.raises(DataError, match="generated on demand"):
        _ = data.prepared
    with pytest.raises(DataError, match="token ids of its own"):
        data.use(TextData("docstrings", packages=["numpy"], max_bytes=9000, tokenizer="bytes").tokenizer)
