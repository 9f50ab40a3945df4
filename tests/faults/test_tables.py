"""Damaged tables, conversations, files of token ids and folders of `save_to_disk`: refused in one line, or read."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from blockformer.data.corpora.chats import Columns, chats_of
from blockformer.data.corpora.hub import saved_files
from blockformer.data.corpora.table_rows import rows
from blockformer.data.corpora.token_files import recognise
from blockformer.errors import DataError
from tests.faults.damage import damaged_bytes, damaged_values

ROWS = [{"text": f"Line {n}: naïve café, 日本語", "label": str(n % 3), "n": n} for n in range(60)]
CHAT = {
    "tools": [{"type": "function", "function": {"name": "now"}}],
    "messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b", "tool": [{"x": None}]}],
}
STATE = {"_data_files": [{"filename": "data-0.arrow"}], "_split": None, "_format_columns": ["text"]}


def write(path: Path) -> None:
    """A whole file, by its name."""
    table = pyarrow.Table.from_pylist(ROWS)
    match path.name:
        case "t.parquet":
            parquet.write_table(table, path, row_group_size=20)
        case "t.arrow":
            with pyarrow.ipc.new_file(str(path), table.schema) as file:
                file.write_table(table, max_chunksize=20)
        case "s.arrow":
            with pyarrow.ipc.new_stream(str(path), table.schema) as stream:
                stream.write_table(table, max_chunksize=20)
        case "t.csv":
            path.write_text("text,label\n" + "".join(f'"{row["text"]}",{row["label"]}\n' for row in ROWS))
        case "t.jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        case "c.jsonl":
            path.write_text("".join(json.dumps(CHAT) + "\n" for _ in range(9)))
        case "x.npy":
            np.save(path, np.arange(300, dtype=np.uint16))
        case "x.bin":
            path.write_bytes(np.array([20240520, 1, 300], "<i4").tobytes() + bytes(1012) + bytes(600))
        case _:
            path.write_text(json.dumps(STATE))
            (path.parent / "data-0.arrow").touch()


def read(path: Path) -> None:
    """Read all of a file."""
    match path.name:
        case "c.jsonl":
            assert all(chat.messages for chat in chats_of([path], Columns()))
        case "x.npy" | "x.bin":
            assert len(np.asarray(recognise(path, None).open())) > 0
        case "state.json":
            saved_files(str(path.parent), "train")
        case _:
            for _, values in rows(path, ["text", "label"], labels=["label"]):
                assert all(isinstance(value, str) for value in values)


@pytest.mark.parametrize(
    "name", ["t.parquet", "t.arrow", "s.arrow", "t.csv", "t.jsonl", "c.jsonl", "x.npy", "x.bin", "state.json"]
)
def test_a_damaged_table_is_refused_in_one_line_or_read(
    name: str, tmp_path: Path, faults: int, tally: Callable[[str, str], None]
) -> None:
    write(path := tmp_path / name)
    read(path)
    whole = path.read_bytes()
    for number in range(faults):
        draw = Random(f"{name} {number}")
        if path.suffix in (".json", ".jsonl") and draw.random() < 0.7:
            lines = whole.splitlines()
            place = draw.randrange(len(lines))
            _, value = damaged_values(json.loads(lines[place]), draw)
            lines[place] = json.dumps(value, default=str).encode()
            content = b"\n".join(lines)
        else:
            _, content = damaged_bytes(whole, draw)
        path.write_bytes(content)
        refusal = refusal_of(path)
        assert refusal is None or refusal.startswith(str(tmp_path)), (number, refusal)
        assert refusal is None or len(refusal.splitlines()) == 1, (number, refusal)
        tally(f"table: {name}", "refused" if refusal else "read")


def refusal_of(path: Path) -> str | None:
    """Why a file is not read; None: it is."""
    try:
        read(path)
    except DataError as error:
        return str(error)
    return None
