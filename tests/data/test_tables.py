"""Tables: the same rows from every format, in memory or not; each problem in one line with file and place."""

import gzip
import json
import re
import tracemalloc
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from blockformer.data.corpora import table_readers, table_rows, tables, unpacked_size
from blockformer.data.corpora.corpus import Corpus
from blockformer.data.corpora.files import Files
from blockformer.data.corpora.unpacked_size import LONGEST
from blockformer.data.module import TextData
from blockformer.errors import DataError
from blockformer.training.objectives import CausalLM, SequenceToSequence

TEXTS = [
    'a "quoted" text, with commas',
    "two\nlines\tand a tab",
    "ümläuts and 日本語",
    *(f"row {n} says {n * n}" for n in range(60)),
]
SHARES = {"validation": 0.1, "test": 0.2}


def write(path: Path, columns: dict[str, Sequence[str | None]]) -> Path:
    """A table in the format of the path's ending."""
    table = pyarrow.table({name: pyarrow.array(values, pyarrow.string()) for name, values in columns.items()})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
    match path.name.partition(".")[2]:
        case "jsonl":
            path.write_text(lines, encoding="utf-8")
        case "jsonl.gz":
            path.write_bytes(gzip.compress(lines.encode()))
        case "jsonl.zst" | "csv.zst":
            writer = pyarrow.CompressedOutputStream(str(path), "zstd")
            writer.write(lines.encode() if "jsonl" in path.name else _csv(table, ","))
            writer.close()
        case "csv":
            path.write_bytes(_csv(table, ","))
        case "tsv":
            path.write_bytes(_csv(table, "\t"))
        case "parquet":
            parquet.write_table(table, path, row_group_size=7)
        case "arrow":
            with pyarrow.ipc.new_file(str(path), table.schema) as file:
                file.write_table(table, max_chunksize=9)
        case "stream.arrow":
            with pyarrow.ipc.new_stream(str(path), table.schema) as stream:
                stream.write_table(table)
    return path


def _csv(table: pyarrow.Table, delimiter: str) -> bytes:
    sink = pyarrow.BufferOutputStream()
    arrow_csv.write_csv(table, sink, arrow_csv.WriteOptions(delimiter=delimiter))
    return sink.getvalue().to_pybytes()


FORMATS = ["jsonl", "jsonl.gz", "jsonl.zst", "csv", "csv.zst", "tsv", "parquet", "arrow", "stream.arrow"]


def read(*paths: Path, columns: Sequence[str] = ("text",), shares: dict[str, float] = SHARES, **own: str) -> Corpus:
    given = {split: [own[split]] if split in own else [] for split in ("validation", "test")}
    files = Files([str(path) for path in paths], given["validation"], given["test"], shares)
    return tables.source("table", files, columns).read()


def splits_of(corpus: Corpus) -> dict[str, list]:
    found: dict[str, list] = {"train": [], "validation": [], "test": []}
    for split, document in corpus.stream():
        found[split].append(document)
    return found


def test_endings_in_capitals_are_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl.gz", {"text": TEXTS}).rename(tmp_path / "T.JSONL.GZ")
    assert [row for _, (row,) in table_rows.rows(path, ["text"])] == TEXTS


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_has_the_same_rows(ending: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"t.{ending}", {"id": list(map(str, range(len(TEXTS)))), "text": TEXTS})
    assert [row for _, (row,) in table_rows.rows(path, ["text"])] == TEXTS
    both = [row for _, row in table_rows.rows(path, ["text", "id"])]
    assert both == [(text, str(number)) for number, text in enumerate(TEXTS)]


def test_splits_have_their_shares_of_the_rows_and_no_row_is_in_two(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", {"text": [*TEXTS, *TEXTS, "", None]})
    corpus = read(path)
    splits = splits_of(corpus)
    assert {split: len(set(rows)) for split, rows in splits.items()} == {"train": 43, "validation": 7, "test": 13}
    assert sorted(row for rows in splits.values() for row in rows) == sorted([*TEXTS, *TEXTS])
    assert not set(splits["train"]) & {*splits["validation"], *splits["test"]}
    reverse = write(tmp_path / "r.jsonl", {"text": [*reversed(TEXTS), *TEXTS]})
    assert {split: set(rows) for split, rows in splits_of(read(reverse)).items()} == {
        split: set(rows) for split, rows in splits.items()
    }
    assert list(corpus.texts("validation")) == splits["validation"]
    nothing = {"validation": 0.0, "test": 0.0}
    assert splits_of(read(path, shares=nothing))["train"] == [*TEXTS, *TEXTS]


def test_files_of_their_own_are_scored_and_rows_that_are_trained_on_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", {"text": TEXTS})
    other = write(tmp_path / "v.parquet", {"text": [*TEXTS[:3], "new"]})
    corpus = read(path, path, validation=str(other))
    splits = splits_of(corpus)
    assert splits["validation"] == [*TEXTS[:3], "new"]
    assert len(splits["test"]) == 13
    scored = "the validation figures are measured on training text"
    assert corpus.notes["validation"] == [f"3 of 4 validation rows are also training rows: {scored}"]
    assert corpus.notes["train"] == [f"data.files names {path} more than once; each file is read once"]


def test_pairs_with_the_same_source_stay_together(tmp_path: Path) -> None:
    sources = [f"s{n % 20}" for n in range(100)]
    path = write(tmp_path / "t.tsv", {"a": sources, "b": [str(n) for n in range(100)]})
    splits = splits_of(read(path, columns=("a", "b")))
    places = {split: {source for source, _ in rows} for split, rows in splits.items()}
    assert sum(map(len, places.values())) == 20
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 70, "validation": 10, "test": 20}


@pytest.mark.parametrize(("column", "paired"), [("text", False), ("source_column", True)])
def test_a_table_is_prepared_into_the_rows_that_its_text_makes(
    column: str, paired: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOCKFORMER_CACHE", str(tmp_path / "cache"))
    path = write(tmp_path / "t.parquet", {"text": TEXTS, "de": [text[::-1] for text in TEXTS]})
    if paired:
        options = {"source_column": "text", "target_column": "de"}
        data = TextData(dataset="table_pairs", files=str(path), tokenizer="bytes", length=64, batch_size=4, **options)
        assert data.facts()["train"]["pairs"] == 55
    else:
        data = TextData(dataset="table", files=str(path), tokenizer="bytes", length=64, batch_size=4)
        facts = data.facts()
        kept = splits_of(read(path, shares={"validation": 0.05, "test": 0.05}))["train"]
        assert facts["train"] == {
            "documents": len(kept),
            "tokens": sum(len(text.encode()) + 1 for text in kept),
            "bytes": sum(len(text.encode()) for text in kept),
        }
        assert 0 < facts["xz_bits_per_byte"] < 30
    data.configure(objective=SequenceToSequence() if paired else CausalLM())
    assert len(data.loader("train").batch(0)["targets"]) == 4
    assert len(list(data.loader("validation"))) >= 1


Make = Callable[[Path], object]


def bytes_of(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("t.jsonl", bytes_of(b'{"text": "a"}\n{"text": "b"'), r"t\.jsonl:2: is not JSON: Expecting ',' delimiter"),
        ("t.jsonl", bytes_of(b'{"text": "a"}\n[1]\n'), r"t\.jsonl:2: is not a JSON object"),
        ("t.jsonl", bytes_of(b'{"text": "a"}\n{"tex": "b"}\n'), r"t\.jsonl:2: there is no column 'text'; .*'tex'"),
        ("t.jsonl", bytes_of(b'{"text": 1}\n'), r"t\.jsonl:1: text must be text, not int"),
        ("t.jsonl", bytes_of(b'{"text": "a"}\n\n{"text": "\xff"}\n'), r"t\.jsonl:3: not UTF-8 \(byte 0xff at byte 10"),
        ("t.jsonl", bytes_of(b"{}\n" + b"\0" * 9), r"t\.jsonl:1: there is no column"),
        (
            "t.jsonl",
            bytes_of(b'{"text": "a \\ud83d b"}'),
            r"t\.jsonl:1: text has an unpaired surrogate \(.ud83d at",
        ),
        ("t.jsonl", bytes_of(b""), r"t\.jsonl: is empty"),
        ("t.jsonl", bytes_of(b'{"text": " "}\n'), r"data\.files: no row has text in text"),
        ("t.jsonl", bytes_of(b"[" * 4000), r"t\.jsonl:1: is not JSON"),
        ("t.jsonl", bytes_of(b'{"text": "' + b"x" * 5000), r"t\.jsonl:1: the line has more than"),
        ("t.jsonl.gz", bytes_of(b"no gzip"), r"t\.jsonl\.gz: .*zlib"),
        ("t.jsonl.gz", bytes_of(gzip.compress(b'{"text": "a"}\n' * 999)[:-20]), r"t\.jsonl\.gz: "),
        ("t.csv", bytes_of(b"text,b\n1,2\n3\n"), r"t\.csv:3: has 1 fields, and the header 2"),
        ("t.csv", bytes_of(b"txt,b\n1,2\n"), r"t\.csv:1: there is no column 'text'; did you mean 'txt'"),
        ("t.csv", bytes_of(b'text,b\n"1,2\n3,4\n'), r"t\.csv:2: is not a row of a table: unexpected end of data"),
        ("t.csv", bytes_of(b"text\na\0b\n"), r"t\.csv:2: is not text: byte 0x00 at byte 1"),
        ("t.csv", bytes_of(b"text\n" + b"x" * 5000 + b"\n"), r"t\.csv:2: the line has more than"),
        ("t.parquet", bytes_of(b"PAR1 and no more"), r"t\.parquet: cannot be read as a Parquet file"),
        ("t.arrow", bytes_of(b"ARROW1 and no more"), r"t\.arrow: cannot be read as an Arrow file"),
        ("t.parquet", lambda path: write(path, {"a": ["x"]}), r"t\.parquet: there is no column 'text'; it has a"),
        ("t.txt", bytes_of(b"text"), r"t\.txt: the ending \.txt is not that of a table; known: \.jsonl"),
        ("t.jsnl", bytes_of(b"text"), r"t\.jsnl: the ending \.jsnl is not that of a table; did you mean '\.jsonl'"),
        ("t.jsonl", lambda path: path.mkdir(), r"t\.jsonl: is a folder"),
    ],
)
def test_a_problem_is_one_line_with_file_and_place(
    name: str, make: Make, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_readers, "LONGEST", 4096)
    make(tmp_path / name)
    with pytest.raises(DataError, match=said) as caught:
        splits_of(read(tmp_path / name))
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600


def test_a_value_of_another_type_in_a_parquet_file_is_named_with_its_row(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"text": [1, 2]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet, row 1: text must be text, not int"):
        read(tmp_path / "t.parquet")


@pytest.mark.parametrize("ending", [".parquet", ".arrow"])
@pytest.mark.parametrize(
    ("kind", "value"),
    [(pyarrow.date64(), 2**62), (pyarrow.duration("s"), 2**62), (pyarrow.timestamp("s", "No/Where"), 1)],
    ids=["date", "duration", "time zone"],
)
def test_a_value_that_python_cannot_have_is_refused(
    kind: pyarrow.DataType, value: int, ending: str, tmp_path: Path
) -> None:
    path, table = tmp_path / f"t{ending}", pyarrow.table({"text": pyarrow.array([value], kind)})
    if ending == ".parquet":
        parquet.write_table(table, path)
    else:
        with pyarrow.ipc.new_file(str(path), table.schema) as file:
            file.write_table(table)
    with pytest.raises(DataError, match=rf"t\{ending}: the column 'text' cannot be read: "):
        read(path)


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".csv"])
def test_two_columns_of_one_name_are_refused(ending: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"t{ending}", {"text": ["a"], "texx": ["b"]})
    if ending != ".parquet":
        path.write_bytes(path.read_bytes().replace(b"texx", b"text"))
    else:
        parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"]), path)
    with pytest.raises(DataError, match=r": there are several columns 'text'; rename all but one"):
        read(path)


def test_a_wrong_length_in_an_arrow_file_reads_nothing_beside_it(tmp_path: Path) -> None:
    path = write(tmp_path / "t.arrow", {"text": ["ab", "cd"]})
    offsets = np.array([0, 2, 4], np.int32).tobytes()
    wrong = np.array([0, 2, 2**30], np.int32).tobytes()
    content = path.read_bytes()
    assert content.count(offsets) == 1
    path.write_bytes(content.replace(offsets, wrong))
    with pytest.raises(DataError, match=r"t\.arrow: the column 'text' cannot be read: .*out of bounds"):
        read(path)


def test_a_table_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", {"text": TEXTS})
    found = read(path).stream()
    next(found)
    path.write_text(path.read_text() + '{"text": "more"}\n')
    with pytest.raises(DataError, match=re.escape(f"{path}: was changed while it was read")):
        list(found)


BIG = "x" * 3_000_000
REPEATED = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 900, pyarrow.int32()), [BIG])
LISTED = pyarrow.ListArray.from_arrays(pyarrow.array([0, 450, 900], pyarrow.int32()), REPEATED)
VIEWS = pyarrow.ListViewArray.from_arrays(
    pyarrow.array([0] * 900, pyarrow.int32()), pyarrow.array([3] * 900, pyarrow.int32()), pyarrow.array([BIG] * 3)
)
RUNS = pyarrow.RunEndEncodedArray.from_arrays(pyarrow.array([900], pyarrow.int32()), pyarrow.array([BIG]))


@pytest.mark.parametrize(
    ("ending", "column"),
    [("parquet", REPEATED), ("arrow", REPEATED), ("arrow", RUNS), ("arrow", VIEWS)],
    ids=["parquet", "dictionary", "runs", "views"],
)
def test_a_value_that_a_small_file_repeats_fills_no_memory(ending: str, column: pyarrow.Array, tmp_path: Path) -> None:
    path = tmp_path / f"t.{ending}"
    write_columns(path, {"text": column})
    assert path.stat().st_size < 10_000_000 < 900 * len(BIG)
    before = pyarrow.total_allocated_bytes()
    rows = table_readers.reader_of(path)(path, ["text"], [], lambda count: None)
    with peak_of_python() as peak:
        assert sum(1 for _ in rows) == 900
    assert peak() < 2 * LONGEST
    assert pyarrow.total_allocated_bytes() - before < LONGEST


def test_bytes_of_a_fixed_length_that_a_small_file_repeats_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacked_size, "LONGEST", 2**22)
    path = tmp_path / "t.parquet"
    rows = table_readers.reader_of(path)
    for length, refused in ((100, False), (10_000, True)):
        column = pyarrow.array([b"x" * length] * 1000, pyarrow.binary(length))
        parquet.write_table(pyarrow.table({"text": column, "other": ["y"] * 1000}), path, compression="zstd")
        assert len(list(rows(path, ["other"], [], int))) == 1000
        if refused:
            with pytest.raises(DataError, match=r"t\.parquet: text has values of 10,000 bytes each, which are no text"):
                list(rows(path, ["text"], [], int))
        else:
            assert len(list(rows(path, ["text"], [], int))) == 1000


def test_lists_that_a_small_file_repeats_are_refused_by_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.parquet"
    write_columns(path, {"text": pyarrow.array([["a", "b"] * 100, ["c"]]), "other": pyarrow.array(["x", "y"])})
    rows = table_readers.reader_of(path)
    assert [row for _, row in rows(path, ["text", "other"], [], int)] == [(["a", "b"] * 100, "x"), (["c"], "y")]
    monkeypatch.setattr(unpacked_size, "MOST_VALUES", 200)
    with pytest.raises(
        DataError, match="group 1 of its rows has lists of 201 values, at most 200 are read; write it in"
    ):
        list(rows(path, ["text", "other"], [], int))
    assert [row for _, row in rows(path, ["other"], [], int)] == [("x",), ("y",)]


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_row_that_would_fill_the_memory_is_refused(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"t.{ending}"
    write_columns(path, {"text": LISTED})
    assert path.stat().st_size < 10_000_000
    with pytest.raises(DataError, match=rf"t\.{ending}, row 1: takes more than 256 MiB once it is unpacked"):
        list(table_readers.reader_of(path)(path, ["text"], [], lambda count: None))


@pytest.mark.parametrize(
    "column",
    [
        pyarrow.array(["abc", None, "de"]),
        pyarrow.array(["abc", None, "de"], pyarrow.string_view()),
        pyarrow.array(["abc", "abc", None, "de"]).dictionary_encode(),
        pyarrow.array([["abc", "de"], None, [], ["f"]]),
        pyarrow.array([{"a": "abc", "b": ["de"]}, {"a": None, "b": None}]),
        pyarrow.array([[("k", "value")], []], pyarrow.map_(pyarrow.string(), pyarrow.string())),
        pyarrow.array([["abc", "de"]], pyarrow.list_(pyarrow.string(), 2)),
        pyarrow.array([["abc"], ["de", "f"]], pyarrow.list_view(pyarrow.string())),
    ],
    ids=lambda column: str(column.type)[:30],
)
def test_the_unpacked_size_counts_every_character(column: pyarrow.Array) -> None:
    for array in (column, column.slice(0, len(column) - 1)):
        exact = characters(array.to_pylist())
        assert exact <= unpacked_size.unpacked_size(array) <= exact + 4 * (len(array) + 4)


def characters(value: Any) -> int:
    match value:
        case str():
            return len(value)
        case list() | tuple():
            return sum(map(characters, value))
        case dict():
            return sum(map(characters, value.values()))
        case _:
            return 0


def write_columns(path: Path, columns: dict[str, pyarrow.Array]) -> None:
    table = pyarrow.table(columns)
    if path.suffix == ".parquet":
        parquet.write_table(table, path, compression="zstd")
    else:
        with pyarrow.ipc.new_file(str(path), table.schema) as file:
            file.write_table(table)


@contextmanager
def peak_of_python() -> Generator[Callable[[], int]]:
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
