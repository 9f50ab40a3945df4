import os
from pathlib import Path

import pytest

from blockformer.files import as_json, new_folder, write_text


def test_a_new_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    with new_folder(out) as draft:
        (draft / "file").write_text("content")
        assert not out.exists()
    assert (out / "file").read_text() == "content"
    assert list(out.parent.iterdir()) == [out]


def test_a_new_folder_is_removed_after_an_exception(tmp_path: Path) -> None:
    def fail(draft: Path) -> None:
        (draft / "file").write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError), new_folder(tmp_path / "out") as draft:
        fail(draft)
    assert list(tmp_path.iterdir()) == []


def test_a_new_folder_does_not_replace_an_existing_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError), new_folder(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize("linked", [False, True])
def test_only_a_regular_file_is_replaced(linked: bool, tmp_path: Path) -> None:
    pipe, path = tmp_path / "pipe", tmp_path / ("link" if linked else "pipe")
    os.mkfifo(pipe)
    if linked:
        path.symlink_to(pipe)
    with pytest.raises(OSError, match="not a regular file"):
        write_text(path, "content")
    assert pipe.is_fifo()
    assert path.is_symlink() == linked
    assert {entry.name for entry in tmp_path.iterdir()} == {"pipe", path.name}


def test_json_has_null_for_what_is_not_finite() -> None:
    value = {"a": [1.5, float("nan")], "b": (float("inf"), {"c": -float("inf")}), "d": "é"}
    assert as_json(value, ensure_ascii=False) == '{"a": [1.5, null], "b": [null, {"c": null}], "d": "é"}'
