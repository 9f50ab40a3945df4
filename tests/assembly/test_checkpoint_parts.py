"""Sharded checkpoints as anyone may give them; how they are written is in tests/training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from blockformer.assembly.archive import LoadError
from blockformer.assembly.checkpoint_parts import StoredTensor, digest, insert_stored, piece_key
from blockformer.assembly.checkpoint_parts import with_values as values_of
from blockformer.assembly.parts_table import PARTS, part_name

PLACE = ("state_dict", "model.weight")
CUTS = [(0, 0, 2, 3), (0, 3, 2, 4), (2, 0, 3, 7)]  # row and column where a piece begins, its height and width


def written(folder: Path) -> tuple[dict[str, Any], Tensor]:
    """A checkpoint's content, and the tensor whose pieces lie in two files."""
    whole, name = torch.arange(35.0).view(5, 7), f"step-1-x.{PARTS}"
    (folder / name).mkdir()
    held: list[dict[str, Tensor]] = [{}, {}]
    pieces = []
    for number, (row, column, height, width) in enumerate(CUTS):
        piece = whole[row : row + height, column : column + width].clone()
        held[number % 2][piece_key(PLACE, (row, column))] = piece
        pieces.append({"file": number % 2, "offsets": [row, column], "sizes": [height, width]})
    files = []
    for number, tensors in enumerate(held):
        path = folder / name / part_name(number)
        torch.save(tensors, path)
        files.append({"number": number, "size": path.stat().st_size, "digest": digest(path)})
    stored = {"place": list(PLACE), "shape": [5, 7], "dtype": "float32", "pieces": pieces}
    table = {"folder": name, "files": files, "tensors": [stored]}
    return {"state_dict": {"model.weight": None}, PARTS: table}, whole


def test_any_part_of_a_tensor_is_read_from_the_pieces_that_it_touches(tmp_path: Path) -> None:
    content, whole = written(tmp_path)
    insert_stored(content, tmp_path / "last.ckpt")
    stored = content["state_dict"]["model.weight"]
    assert isinstance(stored, StoredTensor)
    assert (stored.shape, stored.dtype, stored.device.type) == (whole.shape, whole.dtype, "meta")
    assert torch.equal(values_of(content["state_dict"])["model.weight"], whole)
    for row, column, height, width in [(0, 0, 5, 3), (1, 2, 3, 4), (4, 6, 1, 1), (2, 0, 3, 7), (5, 0, 0, 7)]:
        expected = whole[row : row + height, column : column + width]
        assert torch.equal(stored.read((row, column), (height, width)), expected)


def test_only_files_that_are_needed_are_opened(tmp_path: Path) -> None:
    content, whole = written(tmp_path)
    insert_stored(content, tmp_path / "last.ckpt")
    path = content[PARTS].path(1)
    path.unlink()
    assert torch.equal(content["state_dict"]["model.weight"].read((2, 0), (3, 7)), whole[2:])
    with pytest.raises(LoadError, match=r"00001\.pt: there is no such file"):
        content["state_dict"]["model.weight"].read()


def _missing(path: Path) -> None:
    path.unlink()


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _of_other_weights(path: Path) -> None:
    torch.save({key: value + 1 for key, value in torch.load(path).items()}, path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(_missing, "is missing"), (_cut_short, "is truncated, damaged"), (_of_other_weights, "or of another checkpoint")],
)
def test_a_part_that_is_not_the_one_that_was_written_is_named(
    spoil: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    content, _ = written(tmp_path)
    spoil(tmp_path / content[PARTS]["folder"] / part_name(1))
    insert_stored(content, tmp_path / "last.ckpt")
    with pytest.raises(LoadError, match=rf"last\.ckpt: its part .*00001\.pt (is .*)?{reason}") as raised:
        content[PARTS].verify()
    assert "\n" not in str(raised.value)


def test_an_altered_byte_is_found_when_the_part_is_read(tmp_path: Path) -> None:
    content, whole = written(tmp_path)
    path = tmp_path / content[PARTS]["folder"] / part_name(1)
    altered = bytearray(path.read_bytes())
    place = bytes(altered).index(whole[:2, 3:].clone().numpy().tobytes())
    altered[place] ^= 1
    path.write_bytes(bytes(altered))
    insert_stored(content, tmp_path / "last.ckpt")
    with pytest.raises(LoadError, match=r"last\.ckpt: its part .*00001\.pt: .*a checksum differs"):
        content["state_dict"]["model.weight"].read()


def _set(*way: Any) -> Callable[[dict[str, Any]], None]:
    *places, last, value = way

    def change(table: dict[str, Any]) -> None:
        place: Any = table
        for key in places:
            place = place[key]
        place[last] = value

    return change


TENSOR = ("tensors", 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set("folder", "../other.parts"), "is not the name of a folder"),
        (_set("folder", "weights"), "is not the name of a folder"),
        (_set("files", 0, "number", -1), "parts.files.0.number is wrong"),
        (_set(*TENSOR, "shape", [5, 8]), "is not made up of its pieces"),
        (_set(*TENSOR, "shape", [2**40, 2**40]), "is larger than the files"),
        (_set(*TENSOR, "dtype", "load"), "is of load, which is no type"),
        (_set(*TENSOR, "pieces", 0, "offsets", [1, 0]), "is not made up of its pieces"),
        (_set(*TENSOR, "pieces", 0, "offsets", [4, 0]), "has a piece outside of its shape"),
        (_set(*TENSOR, "pieces", 0, "file", 7), r"00007\.pt, which is no file of the checkpoint"),
        (_set(*TENSOR, "place", ["state_dict", "other"]), "there is no place for state_dict/other"),
        (_set(*TENSOR, "place", ["state_dict"]), "there is no place for state_dict"),
    ],
)
def test_a_table_that_cannot_be_is_refused_in_one_line(
    change: Callable[[dict[str, Any]], None], reason: str, tmp_path: Path
) -> None:
    content, _ = written(tmp_path)
    change(content[PARTS])
    with pytest.raises(LoadError, match=reason) as raised:
        insert_stored(content, tmp_path / "last.ckpt")
    assert "\n" not in str(raised.value)
