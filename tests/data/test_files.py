import os
from itertools import chain
from pathlib import Path

import pytest

from blockformer.data import plain_text
from blockformer.data.corpora.corpus import Corpus
from blockformer.data.corpora.files import Files, read_pairs, read_text, source
from blockformer.data.options import DATA
from blockformer.data.prepared import prepare
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
    unended = _write(tmp_path, a="text\n" * 30 + "and an end without a line end") / "a.txt"
    for shares in ({"validation": 0.0, "test": 0.1}, {"validation": 0.1, "test": 0.0}):
        splits = read_text(_files(unended, shares=shares)).splits
        assert [split for split, share in shares.items() if splits[split]] == [s for s in shares if shares[s]]


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
    with pytest.raises(DataError, match=rf"^{tmp_path}/none\.txt: no such file$"):
        read_text(_files(tmp_path / "none.txt"))
    with pytest.raises(DataError, match=r"^[^:]*\*\.md: no such file$"):
        read_text(_files(tmp_path / "*.md"))
    with pytest.raises(DataError, match=f"^{tmp_path}: is a folder"):
        read_text(_files(tmp_path))
    (tmp_path / "folder.d").mkdir()
    with pytest.raises(DataError, match=r"\.d: only folders match"):
        read_text(_files(f"{tmp_path}/*.d"))


@pytest.mark.parametrize(
    "name", ["", "a\0b", "x" * 5000, "~nobody-of-this-name/a.txt", "a.txt/b", "**b", "[", "\udcff"]
)
def test_a_name_that_is_no_path_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").write_text("text\n")
    with pytest.raises(DataError) as caught:
        source("text", _files(tmp_path / "a.txt" / "b" if name == "a.txt/b" else name))
    assert "\n" not in str(caught.value)


def test_a_file_that_two_patterns_find_is_read_once(tmp_path: Path) -> None:
    path = _write(tmp_path, a="text\n" * 40) / "a.txt"
    assert read_text(_files(path, f"{tmp_path}/*.txt")) == read_text(_files(path))


def _notes(corpus: Corpus) -> str:
    return "\n".join(note for notes in corpus.notes.values() for note in notes)


def test_a_file_that_is_named_twice_is_said_and_read_once(tmp_path: Path) -> None:
    path = _write(tmp_path, a="text\n" * 40) / "a.txt"
    (tmp_path / "link.txt").symlink_to(path)
    os.link(path, tmp_path / "same.txt")
    (tmp_path / "folder").mkdir()
    for again in (path, f"{tmp_path}/folder/../a.txt", tmp_path / "link.txt", tmp_path / "same.txt"):
        corpus = read_text(_files(path, again))
        assert corpus == read_text(_files(path))
        assert f"data.files names {again} more than once; each file is read once" in _notes(corpus)
    assert _notes(read_text(_files(path))) == ""


def test_what_is_said_of_names_is_not_that_of_another_command(tmp_path: Path) -> None:
    """The same files by other names have their own notes, and not those that the cache has of the first names."""
    path = _write(tmp_path, a="text\n" * 40) / "a.txt"
    (tmp_path / "link.txt").symlink_to(path)
    tokenizer = DATA.make({"tokenizer": "bytes"}, {})["tokenizer"]
    for names, notes in (
        ([path], []),
        ([path, path], [path]),
        ([path, tmp_path / "link.txt"], [tmp_path / "link.txt"]),
        ([path], []),
    ):
        found = prepare(source("text", _files(*names)), tokenizer, None).file_notes["train"]
        assert found == [f"data.files names {again} more than once; each file is read once" for again in notes]


def test_files_of_the_same_content_are_said(tmp_path: Path) -> None:
    _write(tmp_path, a="text\n", b="text\n", c="other\n")
    corpus = read_text(_files(f"{tmp_path}/*.txt", shares={}))
    assert _notes(corpus) == (f"{tmp_path}/b.txt has the same content as {tmp_path}/a.txt; it is trained on 2 times")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_text_that_is_also_trained_on_is_said(tmp_path: Path, split: str) -> None:
    lines = [f"Line {n} of a text that is long enough to be no line of another.\n" for n in range(100)]
    _write(tmp_path, a="".join(lines), copy="".join(lines), part="".join(lines[40:]), other="Another text.\n" * 9)
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    for name, said in (
        ("a", f"the {split} file {tmp_path}/a.txt is the training file {tmp_path}/a.txt: the {split} figures are"),
        ("link", f"the {split} file {tmp_path}/link.txt is the training file {tmp_path}/a.txt"),
        ("copy", f"the {split} file {tmp_path}/copy.txt has the content of {tmp_path}/a.txt"),
        ("part", f"20 of 20 lines drawn from the {split} text are also in the training text"),
        ("other", ""),
    ):
        notes = _notes(read_text(_files(tmp_path / "a.txt", **{split: (tmp_path / f"{name}.txt",)})))
        assert said in notes
        assert bool(notes) == bool(said)


def test_pairs_that_are_also_trained_on_are_counted(tmp_path: Path) -> None:
    _write(tmp_path, a="".join(f"{n}\t{n}\n" for n in range(20)), b="3\t3\n4\tfour\n5\t5\n")
    corpus = read_pairs(
        _files(tmp_path / "a.txt", validation=(tmp_path / "b.txt",), shares={"validation": 0.0, "test": 0.0})
    )
    assert _notes(corpus) == (
        "2 of 3 validation pairs are also training pairs: the validation figures are measured on training text"
    )


MARKUP = {
    "a.txt": ('{"text": "one"}\n{"text": "two"}\n', "JSON lines"),
    "a.jsonl": ('{"text": "one"}\n', "JSON lines"),
    "a.json": ('[{"text": "one"},\n {"text": "two"}]\n', "JSON"),
    "long.txt": ("[" + '{"text": "one"}, ' * 100_000 + "1]", "JSON"),
    "[.txt": ("[Chapter 1]\nIt was a dark night.\n" * 50_000, ""),
    "b.txt": ("id,text\n1,a\n2,b\n", "CSV"),
    "a.csv": ("id,text\n1,one, or two\n", "CSV"),
    "c.txt": ('text\n"One."\n"Two."\n"Three."\n', "CSV"),
    "a.tsv": ("a\tb\n1\t2\n", "a tab-separated table"),
    "a.html": ("<!DOCTYPE html>\n<p>Text\n", "HTML or XML"),
    "d.txt": ("Dear all,\nthanks, and greetings,\nA, B\n", ""),
    "e.txt": ("word\nother\n", ""),
    "f.txt": ("def f(x):\n    return {x: 1}\n", ""),
}


@pytest.mark.parametrize("name", MARKUP)
def test_tables_and_markup_in_plain_text_are_said(tmp_path: Path, name: str) -> None:
    text, what = MARKUP[name]
    (tmp_path / name).write_text(text)
    notes = _notes(read_text(_files(tmp_path / name, shares={})))
    assert notes.startswith(f"{tmp_path / name} looks like {what}, which is read as plain text" if what else "")
    assert bool(notes) == bool(what)


def test_a_header_and_quotes_in_pairs_are_said(tmp_path: Path) -> None:
    _write(tmp_path, a="Source\tTarget\none\teins\n", b="".join(f'"{n}"\t"{n}"\n' for n in range(9)), c="text\tFoo\n")
    notes = _notes(read_pairs(_files(f"{tmp_path}/*.txt", shares={}))).split("\n")
    assert notes == [
        f"{tmp_path}/a.txt: the first pair, 'Source' and 'Target', looks like a header; it is read as a "
        "pair: remove the line",
        f"{tmp_path}/b.txt has its fields in quotes, which are read as text; remove them",
    ]


def test_a_table_in_place_of_pairs_is_called_by_its_name(tmp_path: Path) -> None:
    _write(tmp_path, a="source,target\none,eins\ntwo,zwei\n")
    with pytest.raises(DataError, match=r"a\.txt:1: .* 0 tabs; the file looks like CSV: --data.dataset table_pairs"):
        read_pairs(_files(tmp_path / "a.txt"))


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path, a="text\n" * 40) / "a.txt"
    read = plain_text.read
    monkeypatch.setattr(plain_text, "read", lambda path: path.write_text(read(path) + "more\n") and read(path))
    with pytest.raises(DataError, match=r"a\.txt: was changed while it was read"):
        source("text", _files(path)).read()


def test_more_text_than_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.txt").open("wb") as stream:
        stream.truncate(10**13)
    with pytest.raises(DataError, match=r"10000\.0 GB of text need about 40000\.0 GB of memory, and this machine has"):
        source("text", _files(tmp_path / "a.txt"))


def test_shares_are_held_out_of_the_smallest_text(tmp_path: Path) -> None:
    splits = read_text(_files(_write(tmp_path, a="abcd") / "a.txt")).splits
    assert splits == {"train": ["ab"], "test": ["c"], "validation": ["d"]}
