"""Parquet is read in bounded memory, however its bytes are divided among rows, and in all encodings of text."""

import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from blockformer.data.corpora import parquet_pages, table_readers, unpacked_size
from blockformer.data.corpora.parquet_pages import Page, most_rows, pages_of
from blockformer.data.corpora.unpacked_size import dictionaries, parquet_batches
from blockformer.errors import DataError

LIMIT = 2**18
UNEVEN = ["short"] * 3000 + ["x" * 20_000 + str(number) for number in range(200)] + ["short"] * 3000
"""4 MB, all of them in a few hundred rows in the middle."""
PLAIN = {"use_dictionary": False, "data_page_size": 2**15, "write_batch_size": 1}


def encoded(name: str) -> dict[str, Any]:
    return {**PLAIN, "column_encoding": {"text": name}}


@pytest.mark.parametrize(
    "how",
    [
        PLAIN,
        {**PLAIN, "data_page_version": "2.0"},
        encoded("DELTA_LENGTH_BYTE_ARRAY"),
        encoded("DELTA_BYTE_ARRAY"),
        {**PLAIN, "use_dictionary": True, "dictionary_pagesize_limit": 2**15},
    ],
    ids=["plain", "version 2", "lengths", "prefixes", "dictionary, then plain"],
)
def test_many_large_different_values_are_read_few_at_a_time(
    how: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacked_size, "LONGEST", LIMIT)
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"text": UNEVEN}), path, compression="zstd", **how)
    assert path.stat().st_size < LIMIT
    with parquet.ParquetFile(path) as file:
        again = parquet.ParquetFile(path, read_dictionary=dictionaries(file))
        batches = [*parquet_batches(path, file, again, ["text"], 1024)]
    assert max(batch.nbytes for batch in batches) <= LIMIT
    assert [text for batch in batches for text in batch.column("text").to_pylist()] == UNEVEN


def test_a_batch_is_no_smaller_than_it_must_be(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"text": UNEVEN}), path, **PLAIN)
    with parquet.ParquetFile(path) as file:
        assert {batch.num_rows for batch in parquet_batches(path, file, file, ["text"], 1000)} == {1000, 200}


@pytest.mark.parametrize("encoding", ["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"])
def test_encodings_that_pyarrow_does_not_read_as_dictionaries(encoding: str, tmp_path: Path) -> None:
    rows = [{"text": f"row {number}", "turns": [f"a {number}", "b"], "other": "same"} for number in range(50)]
    path = tmp_path / "t.parquet"
    how = {"text": encoding, "turns.list.element": encoding}
    table = pyarrow.Table.from_pylist(rows)
    parquet.write_table(table, path, use_dictionary=False, column_encoding=how)
    read = table_readers.reader_of(path)(path, ["text", "turns", "other"], [], int)
    assert [values for _, values in read] == [(row["text"], row["turns"], row["other"]) for row in rows]


def test_lists_with_many_bytes_are_read_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacked_size, "LONGEST", LIMIT)
    path = tmp_path / "t.parquet"
    turns = [[f"{'x' * 5000}{number}", "y"] for number in range(300)]
    parquet.write_table(pyarrow.table({"turns": turns}), path, **PLAIN)
    with parquet.ParquetFile(path) as file:
        batches = [*parquet_batches(path, file, file, ["turns"], 1024)]
    assert max(batch.nbytes for batch in batches) < 1.1 * LIMIT
    assert [row for batch in batches for row in batch.column("turns").to_pylist()] == turns


def test_pages_are_those_that_were_written(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    for version in ("1.0", "2.0"):
        how = {**PLAIN, "data_page_version": version}
        parquet.write_table(pyarrow.table({"text": UNEVEN}), path, compression="none", **how)
        with parquet.ParquetFile(path) as file, path.open("rb") as stream:
            pages = pages_of(stream, file.metadata.row_group(0).column(0))
        assert sum(page.values for page in pages) == len(UNEVEN)
        assert len(pages) > 50
        assert sum(page.size for page in pages) == pytest.approx(sum(map(len, UNEVEN)) + 4 * len(UNEVEN), rel=0.01)


def test_the_number_of_rows_bounds_every_place_of_a_file() -> None:
    draw = random.Random(0)
    for _ in range(200):
        rows = draw.randint(1, 60)
        columns = [_cut(rows, draw) for _ in range(draw.randint(1, 3))]
        limit = draw.randint(1, 400)
        found = most_rows(columns, 32, limit)
        largest = max(page.size for pages in columns for page in pages)
        assert found == 1 or most_bytes(columns, found, rows) <= max(limit, 2 * largest)
    assert most_rows([[Page(10, 5, 0)] * 4], 32, 20) == 32
    assert most_rows([[Page(10, 5, 0)] * 4], 32, 15) == 16  # 32 rows lie in four pages, 16 in three
    assert most_rows([[Page(10, 5, 5)] * 4], 32, 50) == 4
    assert most_rows([[Page(100, 1000, 0)]], 32, 100) == 8  # a page above the limit: by its average


def _cut(rows: int, draw: random.Random) -> list[Page]:
    ends = sorted({*draw.choices(range(1, rows + 1), k=5), rows})
    counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    return [Page(count, draw.randint(0, 50), draw.choice([0, 0, 7])) for count in counts]


def most_bytes(columns: Sequence[Sequence[Page]], rows: int, total: int) -> int:
    """The same by trying every place; a value of a page that repeats none may have all of the page's bytes."""
    return max(sum(_bytes_at(pages, start, start + rows) for pages in columns) for start in range(total))


def _bytes_at(pages: Sequence[Page], start: int, stop: int) -> int:
    first, size = 0, 0
    for page in pages:
        inside = min(stop, first + page.values) - max(start, first)
        size += max(page.size, inside * page.repeated) if inside > 0 else 0
        first += page.values
    return size


def test_a_page_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_pages, "MOST_BYTES", 2**20)
    path = tmp_path / "t.parquet"
    table = pyarrow.table({"text": ["x" * 2**21], "other": ["y"]})
    parquet.write_table(table, path, compression="zstd", use_dictionary=False)
    rows = table_readers.reader_of(path)
    with pytest.raises(DataError, match=r"t\.parquet: text has a page of 2,097,1\d\d bytes, at most 1 MiB are read"):
        list(rows(path, ["text"], [], int))
    assert [row for _, row in rows(path, ["other"], [], int)] == [("y",)]


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\x15",
        b"\x15" + b"\xff" * 12,
        b"\x1c" * 100,
        b"\x19\x00\x00",
        b"\x15\x00\x15\x02\x15\x02\x00",
        b"\x15\x01",
    ],
    ids=["nothing", "cut", "endless number", "endless structs", "a list", "no counts", "a negative number"],
)
def test_a_damaged_header_is_refused(header: bytes) -> None:
    class Chunk:
        num_values, data_page_offset, has_dictionary_page, path_in_schema = 5, 0, False, "text"

    with pytest.raises(DataError, match="the header of a page is damaged"):
        pages_of(io.BytesIO(header), Chunk())
