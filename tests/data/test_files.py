from itertools import chain
from pathlib import Path

import pytest

from blockformer.data.corpora.files import Files, read_pairs, read_text
from blockformer.errors import DataError

SHARES = {"validation": 0.1, "test": 0.1}


def _files(*train: str | Path, validation: tuple = (), test: tuple = (), shares: dict | None = None) -> Files:
    return Files(
        [str(path) for path in train], [*map(str, validation)], [*map(str, test)], SHARES if shares is None else shares
    )


def _write(folder: Path, **content: str) -> Path:
    for name, text in content.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def test_of_one_file_the_end_is_held_out_at_line_ends(tmp_path: Path) -> None:
    text = "".join(f"line {number} of the only file\n" for number in range(100))
    splits = read_text(_files(_write(tmp_path, a=text) / "a.txt")).splits
    assert "".join(splits["train"] + splits["test"] + splits["validation"]) == text
    assert all(part.endswith("\n") and part.startswith("line") for parts in splits.values() for part in parts)
    assert 0.08 < len(splits["validation"][0]) / len(text) < 0.12


def test_of_a_file_without_line_ends_the_end_is_held_out_all_the_same(tmp_path: Path) -> None:
    splits = read_text(_files(_write(tmp_path, a="x" * 1000) / "a.txt")).splits
    assert [len(splits[split][0]) for split in ("train", "validation", "test")] == [800, 100, 100]


def test_of_many_files_whole_ones_are_held_out(tmp_path: Path) -> None:
    _write(tmp_path, **{f"f{n}": f"text {n}\n" for n in range(20)})
    splits = read_text(_files(f"{tmp_path}/*.txt")).splits
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [16, 2, 2]
    assert sorted(chain(*splits.values())) == sorted(f"text {n}\n" for n in range(20))


def test_files_of_their_own_leave_the_training_files_whole(tmp_path: Path) -> None:
    _write(tmp_path, a="training\n" * 50, b="validation\n" * 5, c="test\n" * 5)
    files = _files(tmp_path / "a.txt", validation=(tmp_path / "b.txt",), test=(tmp_path / "c.txt",))
    assert read_text(files).splits == {
        "train": ["training\n" * 50],
        "validation": ["validation\n" * 5],
        "test": ["test\n" * 5],
    }


def test_no_share_means_no_split(tmp_path: Path) -> None:
    splits = read_text(_files(_write(tmp_path, a="text\n") / "a.txt", shares={"validation": 0.0, "test": 0.0})).splits
    assert splits == {"train": ["text\n"], "validation": [], "test": []}


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbftext")
    assert read_text(_files(tmp_path / "a.txt", shares={})).splits["train"] == ["text"]


def test_pairs_with_one_source_are_held_out_together(tmp_path: Path) -> None:
    lines = [f"word {n % 40}\tWort {n}\n" for n in range(400)]
    (tmp_path / "a.tsv").write_text("".join(lines) + "\n", encoding="utf-8")
    splits = read_pairs(_files(tmp_path / "a.tsv")).splits
    sources = [{source for source, _ in splits[split]} for split in ("train", "validation", "test")]
    assert [len(found) for found in sources] == [32, 4, 4]
    assert sum(map(len, splits.values())) == 400


def test_windows_line_ends_are_no_part_of_a_pair(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"a\tb\r\nc\td\r\ne\tf\r\n")
    assert ("c", "d") in chain(*read_pairs(_files(tmp_path / "a.tsv")).splits.values())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a\tb\nno tab here\n", r"a\.tsv:2: expected source, tab, target, but the line has 0 tabs"),
        (b"a\tb\tc\n", r"a\.tsv:1: .* has 2 tabs"),
        (b"a\tb\n\tb\n", r"a\.tsv:2: the source is empty"),
        (b"a\t\n", r"a\.tsv:1: the target is empty"),
        (b"a\tb\xff\n", r"a\.tsv: not UTF-8 \(byte 0xff at offset 3\)"),
        (b" \n", r"a\.tsv: is empty"),
        (b"a\tb\n", r"too little text"),
    ],
)
def test_a_wrong_file_of_pairs_is_named_with_the_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.tsv").write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_pairs(_files(tmp_path / "a.tsv"))
    assert "\n" not in str(caught.value)


def test_a_missing_file_an_empty_pattern_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt: no such file"):
        read_text(_files(tmp_path / "none.txt"))
    with pytest.raises(DataError, match=r"\*\.md: no such file"):
        read_text(_files(tmp_path / "*.md"))
    with pytest.raises(DataError, match="is a folder"):
        read_text(_files(tmp_path))


def test_a_file_that_two_patterns_find_is_read_once(tmp_path: Path) -> None:
    path = _write(tmp_path, a="text\n" * 40) / "a.txt"
    assert read_text(_files(path, f"{tmp_path}/*.txt")) == read_text(_files(path))
