"""Best-fit packing: the bins of the textbook's algorithm, and rows that have each token once and cut no document."""

import json
import multiprocessing
import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import blockformer
from blockformer.data import cache, packing, sequences, token_rows
from blockformer.data.best_fit import best_fit_decreasing
from blockformer.data.module import TextData
from blockformer.data.packing import PackedText, cut_up
from blockformer.data.samples import TokenizedText
from blockformer.data.sequences import Sequences, Shards
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.training.objectives import CausalLM
from blockformer.training.objectives.best_fit_rows import BestFitRows
from blockformer.training.objectives.causal_lm import PackedRows
from tests.data.encoded import encoded

TOKENIZER = ByteTokenizer()
SIZES = {
    "equal": [5] * 50,
    "longer": [1, 70, 32, 33, 64, 129, 31],
    "one": [3],
    "none": [],
    "many": np.random.default_rng(0).geometric(1 / 20, 400).tolist(),
    "large": np.random.default_rng(1).integers(10, 33, 400).tolist(),
}
LENGTH = 32


def _best_fit(sizes: list[int], length: int) -> list[list[int]]:
    """Best-fit decreasing, one piece at a time."""
    rows: list[list[int]] = []
    for size in sorted(sizes, reverse=True):
        fitting = [row for row in rows if sum(row) + size <= length]
        if fitting:
            max(fitting, key=sum).append(size)
        else:
            rows.append([size])
    return rows


def _first_fit(sizes: list[int], length: int) -> int:
    """Rows of first fit, in the order of the pieces."""
    rows: list[int] = []
    for size in sizes:
        place = next((place for place, used in enumerate(rows) if used + size <= length), len(rows))
        rows[place:] = [size] if place == len(rows) else [rows[place] + size, *rows[place + 1 :]]
    return len(rows)


def _texts(sizes: list[int]) -> list[str]:
    """Texts whose documents have these sizes with their BOS; all tokens of a document are different from its BOS."""
    draw = np.random.default_rng(0)
    return ["".join(map(chr, draw.integers(97, 123, size - 1))) for size in sizes]


def _text(sizes: list[int], length: int = LENGTH) -> TokenizedText:
    return TokenizedText((encoded(_texts(sizes), TOKENIZER, before=TOKENIZER.bos),), TOKENIZER, length)


def test_rows_are_those_of_one_piece_at_a_time() -> None:
    draw = np.random.default_rng(0)
    for _ in range(300):
        length = int(draw.integers(1, 20))
        sizes = draw.integers(1, length + 1, draw.integers(0, 60)).tolist()
        kinds = best_fit_decreasing(np.bincount(sizes, minlength=length + 1).tolist())
        found = [
            [size for size, each, _ in kind.parts for _ in range(each)] for kind in kinds for _ in range(kind.rows)
        ]
        assert Counter(map(sum, found)) == Counter(map(sum, _best_fit(sizes, length)))
        numbers = [packing._numbers(kind, row) for kind in kinds for row in range(kind.rows)]
        ordered = sorted(sizes, reverse=True)
        assert [[ordered[one] for one in row] for row in numbers] == found
        assert sorted(one for row in numbers for one in row) == list(range(len(sizes)))


def test_work_depends_on_the_length_of_a_row_and_not_on_the_number_of_documents() -> None:
    counts = np.random.default_rng(0).integers(0, 10**9, 513).tolist()
    kinds = best_fit_decreasing(counts)
    assert len(kinds) <= 3 * 512
    assert sum(kind.rows * each for kind in kinds for _, each, _ in kind.parts) == sum(counts[1:])


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_each_token_is_once_in_a_row_and_no_document_that_fits_is_cut(sizes: list[int]) -> None:
    text = _text(sizes)
    samples = PackedText(text)
    places, pieces = samples.places(np.arange(len(samples)))
    assert places.shape == (len(samples), LENGTH)
    real = places >= 0
    assert sorted(places[real].tolist()) == list(range(sum(sizes)))
    assert (pieces[~real] == LENGTH + 1).all()
    found = [
        row[own == piece].tolist()
        for row, own in zip(places, pieces, strict=True)
        for piece in range(1, own[own <= LENGTH].max(initial=0) + 1)
    ]
    assert all(after == before + 1 for one in found for before, after in pairwise(one))
    begins = np.cumsum([0, *sizes])
    whole = {tuple(range(start, end)) for start, end in pairwise(begins.tolist()) if end - start <= LENGTH}
    assert whole <= {tuple(one) for one in found}
    assert Counter(map(len, found)) == Counter(
        part for size in sizes for part in ([LENGTH] * (size // LENGTH) + [size % LENGTH] * (size % LENGTH > 0))
    )
    facts = samples.facts()
    assert facts["rows"] == len(samples)
    assert facts["documents_cut"] == sum(size > LENGTH for size in sizes)
    assert facts["padding"] == pytest.approx((~real).mean() if real.size else 0, abs=1e-6)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_there_are_no_more_rows_than_first_fit_needs(sizes: list[int]) -> None:
    pieces = [part for size in sizes for part in ([LENGTH] * (size // LENGTH) + [size % LENGTH] * (size % LENGTH > 0))]
    assert len(PackedText(_text(sizes))) <= _first_fit(pieces, LENGTH)


@pytest.mark.parametrize("sizes", [SIZES["longer"], SIZES["many"]])
@pytest.mark.parametrize("length", [2, 7, 32, 500])
def test_the_same_is_predicted_as_from_concatenated_documents(sizes: list[int], length: int) -> None:
    text = _text(sizes, length)
    packed, cut = BestFitRows(text), PackedRows(text.documents, TOKENIZER, length)
    batches = [samples.batch(np.arange(len(samples)), epoch=0) for samples in (packed, cut)]
    asked = []
    for batch in batches:
        scored = batch["targets"] != -100
        assert (scored == (batch["tokens"] != TOKENIZER.pad)).all()
        asked.append(Counter(zip(batch["tokens"][scored].tolist(), batch["targets"][scored].tolist(), strict=True)))
    assert asked[0] == asked[1]
    assert batches[0]["bytes"].sum() == batches[1]["bytes"].sum() == sum(sizes) - len(sizes)


def test_a_document_reads_nothing_of_the_others_in_its_row() -> None:
    """Each document has the logits that it has alone, so positions begin anew too."""
    sizes = [9, 13, 5, 4, 11]
    model = blockformer.build("tiny_decoder", overrides=["vocab_size=260", "max_length=64"]).eval()
    objective = CausalLM(packing="best_fit")
    text = _text(sizes)
    samples = objective.samples(text)
    batch = samples.batch(np.arange(len(samples)), epoch=0)
    with torch.no_grad():
        logits = objective.logits(model, batch)
        for number in range(len(sizes)):
            alone = torch.from_numpy(text.documents[number])
            row, start = next(
                (row, start)
                for row in range(len(samples))
                for start in range(LENGTH - len(alone) + 1)
                if torch.equal(batch["tokens"][row, start : start + len(alone)], alone)
            )
            expected = model(alone[None])[0]
            torch.testing.assert_close(logits[row, start : start + len(alone)], expected, atol=1e-5, rtol=1e-5)
    assert "documents" not in CausalLM(packing="best_fit", separate_documents=False).samples(text).batch(
        np.array([0]), 0
    )


def test_documents_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    documents, whole = _text(SIZES["many"]).documents, cut_up(_text(SIZES["many"]).documents, LENGTH)
    monkeypatch.setattr(sequences, "_AT_ONCE", 7)
    assert len(list(documents.bounds())) == -(-400 // 7)
    parted = cut_up(documents, LENGTH)
    assert (parted.counts == whole.counts).all()
    assert parted.starts.tolist() == whole.starts.tolist()


@pytest.mark.parametrize("at_once", [5, 2**20])
@pytest.mark.parametrize("separator", [TOKENIZER.bos, None])
def test_documents_of_token_files_are_found_by_their_separator(
    at_once: int, separator: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_rows, "_AT_ONCE", at_once)
    documents = _text(SIZES["longer"]).documents
    unlisted = token_rows.UnlistedSequences(documents.flat, np.zeros(0, np.int64), separator)
    expected = documents if separator is not None else Sequences(documents.flat, documents.offsets[[0, -1]])
    assert cut_up(unlisted, LENGTH).starts.tolist() == cut_up(expected, LENGTH).starts.tolist()
    assert cut_up(unlisted, LENGTH).cut == cut_up(expected, LENGTH).cut


def test_token_files_without_ids_have_no_rows() -> None:
    unlisted = token_rows.UnlistedSequences(Shards([]), np.zeros(0, np.int64), 1)
    assert len(cut_up(unlisted, LENGTH).starts) == 0


@pytest.fixture
def table(tmp_path: Path) -> str:
    lines = [json.dumps({"text": text}) + "\n" for text in _texts(SIZES["many"])]
    (tmp_path / "table.jsonl").write_text("".join(lines))
    return str(tmp_path / "table.jsonl")


def _data(table: str) -> TextData:
    objective = CausalLM(packing="best_fit")
    return TextData(dataset="table", files=table, tokenizer="bytes", length=LENGTH, batch_size=4, objective=objective)


def test_pieces_are_kept_in_the_cache_and_counted_in_the_facts(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _data(table)
    batches = [first.loader("train").batch(step) for step in range(3)]
    facts = first.facts()["packing"]
    assert facts["train"]["rows"] == len(first.samples("train"))
    assert 0 <= facts["train"]["padding"] < 0.1
    assert len(list(cache.root().glob("packing-*"))) == 3
    monkeypatch.setattr(packing, "cut_up", None)
    again = _data(table)
    samples = again.samples("train")
    assert isinstance(samples, PackedText)
    assert isinstance(samples.pieces.starts, np.memmap)
    for step, batch in enumerate(batches):
        for key, value in again.loader("train").batch(step).items():
            assert torch.equal(value, batch[key])
    assert again.facts() == first.facts()


def test_two_ranks_see_the_rows_of_one(table: str) -> None:
    data = _data(table)
    whole = data.loader("train").batch(5)
    parts = [data.loader("train", rank=rank, world=2).batch(5) for rank in range(2)]
    for key, value in whole.items():
        assert torch.equal(torch.stack([part[key] for part in parts], dim=1).flatten(0, 1), value)


@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
def test_two_processes_at_once_and_one_that_was_killed_get_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    text = replace(_text(SIZES["many"]), key={"name": "of this test"})
    fork = multiprocessing.get_context("fork")

    def work(found: Any) -> None:
        found.put(PackedText(text).pieces.starts.tolist())

    begun = fork.Event()
    with monkeypatch.context() as slow:
        slow.setattr(packing, "cut_up", lambda *_: (begun.set(), time.sleep(600)))
        killed = fork.Process(target=work, args=(fork.Queue(),))
        killed.start()
        assert begun.wait(60)
        killed.kill()
        killed.join()
    found = fork.Queue()
    both = [fork.Process(target=work, args=(found,)) for _ in range(2)]
    for process in both:
        process.start()
    starts = [found.get(timeout=60) for _ in both]
    for process in both:
        process.join()
    assert starts[0] == starts[1] == PackedText(replace(text, key=None)).pieces.starts.tolist()
    assert [path.name for path in cache.root().iterdir()] == [path.name for path in cache.root().glob("packing-*")]
