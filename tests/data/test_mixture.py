"""Mixtures: exact shares in every prefix, epochs of each source, one tokenizer, figures of each source."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from blockformer.data.loader import EvaluationLoader
from blockformer.data.mixed_samples import MixedSamples, MixtureOrder
from blockformer.data.module import TextData
from blockformer.data.row_schedule import LONGEST, RowSchedule, whole_numbers
from blockformer.data.samples import UNSCORED
from blockformer.data.tokenizers.bpe import BPE, BPETokenizer
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.errors import DataError
from blockformer.training.objectives import CausalLM, MaskedLM, SequenceToSequence
from blockformer.training.objectives.causal_lm import PackedRows
from blockformer.training.objectives.seq2seq import PaddedPairs
from tests.data.encoded import encoded
from tests.data.test_tables import write

TOKENIZER = ByteTokenizer()
KINDS = ("documents", "pairs")


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_each_prefix_has_the_shares_to_within_one_row(weights: list[int]) -> None:
    schedule, rows = RowSchedule(weights), np.arange(2 * sum(weights) + 1)
    chosen = schedule.source(rows)
    counts = np.cumsum(chosen[:, None] == np.arange(len(weights)), axis=0)
    ideal = (rows[:, None] + 1) * np.array(weights) / sum(weights)
    assert np.abs(counts - ideal).max() < 1
    assert (schedule.number(rows) == counts[rows, chosen] - 1).all()
    for row in (0, len(rows) // 3, len(rows)):
        assert schedule.counts(row).tolist() == [int((chosen[:row] == n).sum()) for n in range(len(weights))]


def test_a_row_far_away_is_looked_up() -> None:
    schedule, far = RowSchedule([3, 2, 2]), 7 * 10**15
    rows = np.arange(far, far + 7)
    assert (schedule.source(rows) == schedule.source(np.arange(7))).all()
    assert (schedule.number(rows) - schedule.number(np.arange(7))).tolist() == [
        10**15 * [3, 2, 2][source] for source in schedule.source(rows)
    ]


@pytest.mark.parametrize(
    ("weights", "whole"),
    [([3, 1], [3, 1]), ([0.7, 0.2, 0.1], [7, 2, 1]), ([0.25, 1.5], [1, 6]), ([2e-3, 4], [1, 2000]), ([10], [1])],
)
def test_weights_become_the_smallest_whole_numbers(weights: list[float], whole: list[int]) -> None:
    assert whole_numbers(dict(zip("abc", weights, strict=False))) == whole


def test_weights_that_hardly_repeat_are_refused() -> None:
    with pytest.raises(
        DataError, match=rf"\(a 0.123457, b 1\) repeat after .* at most {LONGEST:,} are possible: round"
    ):
        whole_numbers({"a": 0.1234567, "b": 1})


def _mixed(kind: str, *counts: int) -> MixedSamples:
    texts = [
        [f"{name} {n} {'ha' * (n * 7 % 11)}" for n in range(count)] for name, count in zip("xyz", counts, strict=False)
    ]
    if kind == "documents":
        documents = [encoded(own, TOKENIZER, before=TOKENIZER.bos) for own in texts]
        return MixedSamples([PackedRows(one, TOKENIZER, 8) for one in documents], TOKENIZER.pad)
    sides = ({"after": TOKENIZER.eos}, {"before": TOKENIZER.bos})
    pairs = [[encoded(own, TOKENIZER, **around) for around in sides] for own in texts]
    return MixedSamples([PaddedPairs(*both, TOKENIZER) for both in pairs], TOKENIZER.pad)


def _order(samples: MixedSamples, weights: list[int], size: int, **changes: Any) -> MixtureOrder:
    given = {"names": "xyz"[: len(weights)], "seed": 0, **changes}
    return MixtureOrder(samples, given["names"], RowSchedule(weights), size, given["seed"])


@pytest.mark.parametrize("kind", KINDS)
def test_each_source_has_epochs_of_its_own_in_new_orders(kind: str) -> None:
    samples = _mixed(kind, 5, 23)
    order, steps = _order(samples, [2, 1], 6), 3 * 32
    chosen = np.concatenate([order.chosen(step) for step in range(steps)])
    prefix = np.cumsum(chosen % 2 == 0)
    assert np.abs(prefix - (np.arange(len(chosen)) + 1) * 2 / 3).max() < 1
    for source, part in enumerate(samples.parts):
        seen, size = chosen[chosen % 2 == source] // 2, len(part)
        epochs, numbers = np.divmod(seen, size)
        each = Counter(epochs.tolist())
        assert all(each[epoch] == size for epoch in range(max(each)))
        assert all(sorted(numbers[epochs == epoch]) == list(range(size)) for epoch in range(max(each)))
        orders = {tuple(numbers[epochs == epoch]) for epoch in range(max(each))}
        assert len(orders) == max(each) or size < 9  # so few samples have few orders


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_is_a_function_of_seed_and_step_and_not_of_other_sources(kind: str) -> None:
    samples = _mixed(kind, 9, 31, 14)
    order, again = (_order(samples, [1, 2, 1], 4) for _ in range(2))
    backwards = [again.chosen(step) for step in reversed(range(50))][::-1]
    assert all((order.chosen(step) == one).all() for step, one in enumerate(backwards))
    assert any((_order(samples, [1, 2, 1], 4, seed=1).chosen(step) != order.chosen(step)).any() for step in range(3))
    if kind == "documents":  # pairs are also ordered by length within a pool
        two = MixedSamples(samples.parts[:2], TOKENIZER.pad)
        alone = np.concatenate([_order(two, [1, 1], 4).chosen(step) for step in range(20)])
        both = np.concatenate([order.chosen(step) for step in range(40)])
        assert (alone[alone % 2 == 1] // 2)[:30].tolist() == (both[both % 3 == 1] // 3)[:30].tolist()


def test_steps_of_pairs_have_similar_lengths() -> None:
    samples = _mixed("pairs", 400, 300)
    order = _order(samples, [1, 1], 8)
    spreads = [np.ptp(samples.lengths(order.chosen(step))) for step in range(64)]
    random = [np.ptp(samples.lengths(order._drawn(np.arange(8 * step, 8 * step + 8)))) for step in range(64)]
    assert np.mean(spreads) < 0.5 * np.mean(random)
    short = [samples.lengths(order.chosen(step)).mean() for step in range(32)]
    assert sorted(short) != short


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_those_of_their_sources(kind: str) -> None:
    samples = _mixed(kind, 6, 40)
    chosen = np.concatenate([_order(samples, [1, 1], 12).chosen(step) for step in range(4)])
    batch = samples.batch(chosen, 0)
    assert batch["index"].tolist() == chosen.tolist()
    for row, number in enumerate(chosen):
        epoch, sample = divmod(number // 2, len(samples.parts[number % 2]))
        own = samples.parts[number % 2].batch(np.array([sample]), int(epoch))
        for key in own.keys() - {"index"}:
            ours, theirs = batch[key][row], own[key][0]
            width = theirs.shape[0] if theirs.ndim else None
            assert torch.equal(ours[:width] if width else ours, theirs), key
            if width and key != "documents":
                fill = UNSCORED if key == "targets" else 0
                assert (ours[width:] == fill).all()


def _write(folder: Path, paired: bool = False) -> dict[str, Any]:
    """Two tables as sources: 90 rows that begin with c, and 40 that begin with p."""
    counts = {"code": ("c", 90), "prose": ("p", 40)}
    texts = {name: [f"{first}{n} {'la ' * (n % 9)}" for n in range(count)] for name, (first, count) in counts.items()}
    for name, own in texts.items():
        write(folder / f"{name}.jsonl", {"text": own, "source": own, "target": [text[::-1] for text in own]})
    dataset = "table_pairs" if paired else "table"
    return {name: {"dataset": dataset, "files": str(folder / f"{name}.jsonl")} for name in texts}


def _data(sources: dict[str, Any], **more: Any) -> TextData:
    given = {"tokenizer": "bytes", "length": 48, "batch_size": 4, "validation": 0.2, "test": 0.2}
    return TextData("mixture", **(given | {"objective": CausalLM()} | more), sources=sources)


@pytest.mark.parametrize(
    ("objective", "paired"),
    [(CausalLM(), False), (MaskedLM(), False), (SequenceToSequence(), True), (CausalLM(), True)],
    ids=["causal_lm", "masked_lm", "seq2seq", "causal_lm of pairs"],
)
def test_every_objective_reads_mixtures_and_ranks_share_their_batches(
    objective: Any, paired: bool, tmp_path: Path
) -> None:
    data = _data(_write(tmp_path, paired), objective=objective, length=96)
    whole = data.loader("train")
    parts = [data.loader("train", rank=rank, world=2) for rank in range(2)]
    for step in (0, 7, 3 * len(whole)):
        batch = whole.batch(step)
        for rank, part in enumerate(parts):
            own = part.batch(step)
            assert own["index"].tolist() == batch["index"][rank::2].tolist()
            scored = own["targets"] != UNSCORED
            theirs = batch["targets"][rank::2]
            assert torch.equal(own["targets"][scored], theirs[theirs != UNSCORED])
    continued = data.loader("train")
    continued.load_state_dict({"step": 11})
    assert torch.equal(next(iter(continued))["targets"], whole.batch(11)["targets"])


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("paired", [False, True])
def test_each_source_is_evaluated_once_and_by_itself(paired: bool, world: int, tmp_path: Path) -> None:
    data = _data(_write(tmp_path, paired), length=96)
    found: dict[int, list[int]] = {0: [], 1: []}
    begun: list[int] = []
    for rank in range(world):
        loader = data.loader("validation", rank=rank, world=world)
        begun = [int(batch["origin"]) for batch in loader]
        for batch in loader:
            found[int(batch["origin"])] += [n for n in batch["index"].tolist() if n >= 0]
    parts = data.samples("validation").parts  # type: ignore[union-attr]
    assert {source: sorted(own) for source, own in found.items()} == {n: list(range(len(parts[n]))) for n in (0, 1)}
    assert set(begun[:3]) == {0, 1}  # a limited validation sees both


def test_the_tokenizer_is_learned_from_the_training_text_of_all_sources(tmp_path: Path) -> None:
    sources = _write(tmp_path)
    data = _data(sources, tokenizer="bpe", vocab_size=280)
    assert isinstance(data.tokenizer, BPETokenizer)
    texts = [
        text for part in data.rows.parts.values() for text in part.dataset.source(part.shares).read().texts("train")
    ]  # type: ignore[union-attr]
    assert {text[0] for text in texts} == {"c", "p"}
    assert data.tokenizer.dump() == BPE(vocab_size=280).learn(lambda: texts).dump()
    again = _data({name: one | {"weight": 5} for name, one in sources.items()}, tokenizer="bpe", vocab_size=280)
    assert again.tokenizer is not None
    assert again.tokenizer.dump() == data.tokenizer.dump()


def test_bytes_are_known_of_all_sources_or_of_none(tmp_path: Path) -> None:
    library = Library(models.BPE())
    library.normalizer, library.pre_tokenizer = normalizers.NFC(), pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator([], trainers.BpeTrainer(initial_alphabet=letters, special_tokens=["<end>"]))
    library.save(str(tmp_path / "mine.json"))
    sources = _write(tmp_path)
    chosen = {"tokenizer": "file", "tokenizer_path": str(tmp_path / "mine.json"), "eos_token": "<end>"}
    assert "bytes" in _data(sources, **chosen).loader("train").batch(0)
    write(tmp_path / "prose.jsonl", {"text": [f"e\u0301 {n}, which NFC joins" for n in range(40)]})
    data = _data(sources, **chosen)
    loaders = [data.loader("train"), data.loader("validation")]
    assert not any("bytes" in loader.batch(step) for loader in loaders for step in range(2))
    for order in (sources, dict(reversed(sources.items()))):  # what one source alone counts is in the sum
        facts = _data(order, **chosen).facts()
        own = [source["train"] for source in facts["sources"].values()]
        assert ["changed" in counts for counts in own] == [name == "prose" for name in order]
        assert facts["train"]["changed"] == facts["sources"]["prose"]["train"]["changed"]
        assert facts["train"]["tokens"] == sum(counts["tokens"] for counts in own)


def test_other_weights_encode_nothing_again(tmp_path: Path, cache: Path) -> None:
    sources = _write(tmp_path)
    first = _data(sources).facts()
    entries = {path.name for path in cache.iterdir()}
    sources["code"]["weight"] = 3
    second = _data(sources).facts()
    assert {path.name for path in cache.iterdir()} == entries
    assert first["sha256"] != second["sha256"]
    assert (second["sources"]["code"]["share"], second["sources"]["prose"]["weight"]) == (0.75, 1)


def test_facts_are_of_each_source_and_of_all(tmp_path: Path) -> None:
    sources = _write(tmp_path)
    facts = _data(sources).facts()
    json.dumps(facts)
    alone = TextData("table", files=sources["prose"]["files"], tokenizer="bytes", validation=0.2, test=0.2).facts()
    own = facts["sources"]["prose"]
    assert {key: own[key] for key in ("sha256", "train", "validation", "files")} == {
        key: alone[key] for key in ("sha256", "train", "validation", "files")
    }
    assert facts["validation"]["documents"] == 18 + 8
    assert facts["train"]["bytes"] == sum(one["train"]["bytes"] for one in facts["sources"].values())


def test_the_epochs_of_each_source_are_counted(tmp_path: Path) -> None:
    data = _data(_write(tmp_path))
    rows = [len(part) for part in data.samples("train").parts]  # type: ignore[union-attr]
    assert data.source_epochs(10) == {"code": 20 / rows[0], "prose": 20 / rows[1]}
    assert TextData("docstrings").source_epochs(10) == {}


def test_notes_name_their_source(tmp_path: Path) -> None:
    sources = _write(tmp_path, paired=True)
    data = _data(sources, objective=SequenceToSequence(), length=20)
    assert [note.partition(":")[0] for note in data.notes("train")] == ["code", "prose"]


TABLE = {"dataset": "table", "files": "FILE"}
WRONG: dict[str, tuple[Any, str]] = {
    "none": (None, "dataset mixture needs sources: name them in data.sources, such as {code: "),
    "no mapping": ({"code": "table"}, "data.sources.code must be a dataset with its options, such as {dataset: table"),
    "a name": ({"a.b": TABLE}, "data.sources: 'a.b' cannot name a source: use at most 40 letters, digits, - and _"),
    "no dataset": ({"code": {"files": "FILE"}}, "data.sources.code needs a dataset: chat, cldr, docstrings, "),
    "an unknown dataset": (
        {"code": {"dataset": "tabel"}},
        "data.sources.code.dataset: there is no dataset \"tabel\"; did you mean 'table'?",
    ),
    "a task": ({"code": {"dataset": "mqar"}}, "data.sources.code.dataset: 'mqar' cannot be mixed; use chat, cldr, "),
    "a mixture": (
        {"code": {"dataset": "mixture"}},
        "data.sources.code.dataset: 'mixture' cannot be mixed; use chat, cldr, ",
    ),
    "an unknown option": (
        {"code": TABLE | {"colum": "text"}},
        "there is no setting data.sources.code.colum; did you mean 'column'?",
    ),
    "another dataset's option": (
        {"code": TABLE | {"locale": "de"}},
        "data.sources.code.locale is a setting of dataset 'cldr', and has no effect with dataset 'table'; remove it",
    ),
    "a common option": (
        {"code": TABLE | {"length": 5}},
        "data.sources.code.length is a setting of all sources: use data.length",
    ),
    "a weight": ({"code": TABLE | {"weight": 0}}, "data.sources.code.weight must be a number above 0, not 0"),
    "a weight of another type": (
        {"code": TABLE | {"weight": True}},
        "data.sources.code.weight must be a number above 0, not True",
    ),
    "a value": ({"code": TABLE | {"column": 3}}, "data.sources.code.column must be text, not 3"),
    "pairs and documents": (
        {"code": TABLE, "de": {"dataset": "cldr"}},
        "data.sources: code has documents and de has pairs; a mixture has either pairs, conversations or documents",
    ),
    "a missing file": ({"code": TABLE | {"files": "none.csv"}}, "data.sources.code: none.csv: no such file"),
    "a missing column": (
        {"code": TABLE | {"column": "txt"}},
        "data.sources.code: FILE:1: there is no column 'txt'; did you mean 'text'?",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_a_source_is_named(what: str, tmp_path: Path) -> None:
    path = str(write(tmp_path / "t.jsonl", {"text": [f"row {n}" for n in range(50)]}))
    sources, message = WRONG[what]
    if sources:
        sources = json.loads(json.dumps(sources).replace("FILE", path))
    with pytest.raises(DataError, match=re.escape(message.replace("FILE", path))) as raised:
        _data(sources).prepare_data()
    assert "\n" not in str(raised.value)


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(DataError, match=r'sources\.a\.weight .*; data\.sources\.b\.dataset: there is no dataset "tex"'):
        _data({"a": {"dataset": "docstrings", "weight": -1}, "b": {"dataset": "tex"}})


def test_a_share_that_no_source_needs_is_refused(tmp_path: Path) -> None:
    sources = _write(tmp_path)
    for one in sources.values():
        one["validation_files"] = one["files"]
    with pytest.raises(DataError, match=r"data.validation has no effect with validation_files in each of data.sources"):
        _data(sources)
    del sources["code"]["validation_files"]
    _data(sources)


def test_a_source_that_is_too_short_is_named(tmp_path: Path) -> None:
    sources = _write(tmp_path, paired=True)
    path = write(tmp_path / "long.csv", {"source": ["a" * 99, "b" * 99], "target": ["c", "d"]})
    sources["long"] = {"dataset": "table_pairs", "files": str(path)}
    data = _data(sources, objective=SequenceToSequence(), validation=0, test=0)
    with pytest.raises(DataError, match=r"data\.sources\.long: 2 of 2 training pairs are longer than data.length 48"):
        data.loader("train")


def test_one_source_is_read_as_it_is_without_a_mixture(tmp_path: Path) -> None:
    sources = _write(tmp_path)
    data = _data({"code": sources["code"]})
    alone = TextData(
        "table",
        files=sources["code"]["files"],
        tokenizer="bytes",
        length=48,
        validation=0.2,
        test=0.2,
        objective=CausalLM(),
    )
    mixed, other = data.loader("validation"), EvaluationLoader(alone.samples("validation"), 4)
    for ours, theirs in zip(mixed, other, strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
