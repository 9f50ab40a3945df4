"""Tables with labels: classes and scores, their order, their errors with file and row, and the rows that they make."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from blockformer.data.labelled_rows import LabelledRows
from blockformer.data.module import TextData
from blockformer.errors import DataError
from blockformer.training.objectives import CausalLM, Classification, Regression

Rows = list[dict[str, Any]]
WORDS = ["red", "green", "blue", "round", "square"]


def rows(count: int = 40) -> Rows:
    return [
        {"text": f"{WORDS[n % 5]} number {n}", "label": ("b", "a", "c")[n % 3], "score": n / 4} for n in range(count)
    ]


def write(path: Path, content: Rows) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(content), path)
    elif path.suffix == ".csv":
        lines = [list(content[0]), *(one.values() for one in content)]
        path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    else:
        path.write_text("".join(json.dumps(one) + "\n" for one in content))
    return path


def data(*paths: Path, dataset: str = "table_classes", **settings: Any) -> TextData:
    given = {"length": 40, "batch_size": 4, "tokenizer": "bytes", "files": [str(path) for path in paths]}
    objective = Classification() if dataset == "table_classes" else Regression()
    return TextData(dataset, **given | {"objective": objective} | settings)


def labels_of(made: TextData) -> dict[str, float]:
    """The target of each text, over all splits."""
    found: dict[str, float] = {}
    for split in ("train", "validation", "test"):
        samples = made.samples(split)
        batch = samples.batch(np.arange(len(samples)), 0)
        for tokens, real, target in zip(batch["tokens"], batch["attention_mask"], batch["targets"], strict=True):
            found[made.tokenizer.decode(tokens[real].tolist())] = target.item()
    return found


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_classes_are_numbered_by_their_sorted_names(ending: str, tmp_path: Path) -> None:
    made = data(write(tmp_path / f"t.{ending}", rows()))
    assert made.classes == ("a", "b", "c")
    assert made.facts()["classes"] == ["a", "b", "c"]
    assert labels_of(made) == {one["text"]: "abc".index(one["label"]) for one in rows()}


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_scores_are_read_as_numbers(ending: str, tmp_path: Path) -> None:
    made = data(write(tmp_path / f"t.{ending}", rows()), dataset="table_scores")
    assert made.classes == ()
    assert labels_of(made) == {one["text"]: one["score"] for one in rows()}


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_labels_may_be_numbers_and_booleans(ending: str, tmp_path: Path) -> None:
    numbered = [one | {"label": n % 2, "flag": n % 3 == 0} for n, one in enumerate(rows())]
    path = write(tmp_path / f"t.{ending}", numbered)
    assert data(path).classes == ("0", "1")
    assert data(path, label_column="flag").classes == ("false", "true")
    with pytest.raises(DataError, match="label must be text, not int"):
        data(path, dataset="table", column="label", objective=CausalLM()).samples("train")


def test_named_classes_may_be_more_than_there_are(tmp_path: Path) -> None:
    made = data(write(tmp_path / "t.jsonl", rows()), classes=["a", "aa", "b", "c"])
    assert made.classes == ("a", "aa", "b", "c")
    assert labels_of(made)["red number 0"] == 2
    with pytest.raises(DataError, match=r"data\.classes: name two or more classes, each once and sorted, not b, a"):
        data(tmp_path / "t.jsonl", classes=["b", "a"])


def test_what_is_wrong_with_a_label_is_one_line_with_file_and_row(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "t.jsonl", rows()), tmp_path / "v.csv"

    def said(label: str, column: str = "label", **settings: Any) -> str:
        write(bad, [*rows(3), {"text": "wrong", "label": "a", "score": 1.0} | {column: label}])
        with pytest.raises(DataError) as caught:
            data(good, validation_files=str(bad), **settings).samples("validation")
        assert "\n" not in str(caught.value)
        return str(caught.value).removeprefix(f"{bad}:5: ")

    known = "correct the row or leave it out"
    assert said("d") == f"label 'd' is none of the 3 classes of data.files (a, b, c); {known}"
    assert said("a", classes=["b", "c"]).startswith(
        f"{good}:2: label 'a' is none of the 2 classes of data.classes (b, c)"
    )
    assert said(" ") == "label is empty; each text needs a label"
    assert said("much", "score", dataset="table_scores") == "score must be a number, not 'much'"
    assert said("nan", "score", dataset="table_scores") == "score must be a number, not 'nan'"
    with pytest.raises(DataError, match=r"data\.label_column 'text' is a column of texts too"):
        data(good, label_column="text")
    with pytest.raises(DataError, match="objective causal_lm cannot use dataset table_classes"):
        data(good, objective=CausalLM())


def test_labelled_tables_cannot_be_mixed(tmp_path: Path) -> None:
    sources = {"mine": {"dataset": "table_classes", "files": str(write(tmp_path / "t.jsonl", rows()))}}
    with pytest.raises(DataError, match="'table_classes' cannot be mixed"):
        TextData("mixture", sources=sources, tokenizer="bytes")


def test_two_texts_are_one_row_with_two_segments_and_the_longer_one_is_cut(tmp_path: Path) -> None:
    pairs = [
        {"text": "x" * first, "more": "y" * second, "label": "ab"[n % 2]} for n, (first, second) in enumerate(SIZES)
    ]
    made = data(write(tmp_path / "t.jsonl", pairs), second_column="more", length=13, validation=0.0, test=0.0)
    samples = made.samples("train")
    assert isinstance(samples, LabelledRows)
    assert samples.cut == sum(first + second > 10 for first, second in SIZES)
    assert made.notes("train") == ["4 of 6 training texts are longer than data.length 13 and are cut off"]
    batch = samples.batch(np.arange(len(SIZES)), 0)
    names = made.tokenizer.names
    for (first, second), tokens, real, segments in zip(
        KEPT, batch["tokens"], batch["attention_mask"], batch["segments"], strict=True
    ):
        written = [names[one] for one in tokens[real].tolist()]
        assert written == ["<bos>", *"x" * first, "<eos>", *"y" * second, "<eos>"]
        assert segments[real].tolist() == [0] * (first + 2) + [1] * (second + 1)
        assert not segments[~real].any()
    assert samples.lengths(np.arange(len(SIZES))).tolist() == [sum(one) for one in KEPT]
    with pytest.raises(DataError, match=r"data\.length 4 is too short for this dataset: 5 or more"):
        data(tmp_path / "t.jsonl", second_column="more", length=4, validation=0.0, test=0.0).samples("train")


SIZES = [(3, 4), (5, 5), (30, 2), (2, 30), (30, 30), (9, 7)]
KEPT = [(3, 4), (5, 5), (8, 2), (2, 8), (5, 5), (5, 5)]


def test_an_incomplete_batch_is_filled_with_what_is_not_scored(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", rows(45))
    made, scored = data(path, dataset="table_scores", validation=0.2), list[float]()
    for rank in range(2):
        for batch in made.loader("validation", rank=rank, world=2):
            real = batch["index"] >= 0
            assert (~batch["targets"].isnan() == real).all()
            scored += batch["targets"][real].tolist()
    assert len(scored) == 9
    assert sorted(scored) == sorted(made.samples("validation").batch(np.arange(9), 0)["targets"].tolist())
