"""Datasets of Hugging Face: folders of save_to_disk, and others by way of `datasets`, here from local files."""

import builtins
import json
import re
from pathlib import Path
from typing import Any

import pytest

from blockformer.data.corpora import hub
from blockformer.data.module import TextData
from blockformer.errors import DataError
from blockformer.training.objectives import CausalLM, SequenceToSequence

datasets = pytest.importorskip("datasets")

ROWS = {"text": [f"row {n}, ümläut" for n in range(60)], "de": [f"Zeile {n}" for n in range(60)], "n": list(range(60))}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with two splits, of which one has two files."""
    whole = datasets.Dataset.from_dict(ROWS)
    splits = datasets.DatasetDict({"train": whole, "test": whole.select(range(5))})
    splits.save_to_disk(tmp_path / "saved", num_shards={"train": 2, "test": 1})
    return tmp_path / "saved"


@pytest.fixture
def by_name(tmp_path: Path) -> Path:
    """A folder of data files, which `datasets` reads as it reads a repository of the hub."""
    folder = tmp_path / "named"
    folder.mkdir()
    for split, count in (("train", 60), ("test", 5)):
        rows = [json.dumps({key: values[n] for key, values in ROWS.items()}) for n in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


def _data(path: Path | str, **more: Any) -> TextData:
    given = {"tokenizer": "bytes", "length": 32, "batch_size": 2, "validation": 0.1, "test": 0.1} | more
    given = {"objective": CausalLM()} | given
    return TextData("hub", path=str(path), **given)


def _texts(data: TextData, split: str) -> list[Any]:
    source = data.rows.dataset.source(data.rows.shares)  # type: ignore[union-attr]
    return [document for of, document in source.read().stream() if of == split]


@pytest.mark.parametrize("kind", ["saved", "by_name"])
def test_a_dataset_has_the_rows_of_its_splits(kind: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(kind)
    nothing = {"validation": 0, "test": 0}
    assert _texts(_data(path, **nothing), "train") == ROWS["text"]
    own = _data(path, test_split="test", test=0.05)
    assert _texts(own, "test") == ROWS["text"][:5]
    assert len(_texts(own, "train")) + len(_texts(own, "validation")) == 60
    pairs = _data(path, column="text", target_column="de", objective=SequenceToSequence(), **nothing)
    assert _texts(pairs, "train") == list(zip(ROWS["text"], ROWS["de"], strict=True))
    assert pairs.facts()["train"]["pairs"] == 60
    assert own.facts()["test"] == {"documents": 5, "tokens": 5 + 5 * 15, "bytes": 5 * 15}


def test_a_folder_without_splits_is_read_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.Dataset.from_dict(ROWS).save_to_disk(tmp_path / "one")
    _without_package(monkeypatch)
    assert _texts(_data(tmp_path / "one", validation=0, test=0), "train") == ROWS["text"]


def test_a_dataset_by_name_is_read_once(by_name: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    load = datasets.load_dataset
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **named: calls.append((args, named)) or load(*args, **named)
    )
    first = _data(by_name).facts()
    assert [named["streaming"] for _, named in calls] == [True]
    assert _data(by_name).facts() == first
    assert len(calls) == 1
    with (by_name / "train.jsonl").open("a") as stream:
        stream.write('\n{"text": "another", "de": "noch eine", "n": 60}')
    assert _data(by_name).facts()["sha256"] != first["sha256"]


def test_subset_and_revision_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(*args: Any, **named: Any) -> list[dict[str, str]]:
        asked.append((args, named))
        return [{"text": text} for text in ROWS["text"]]

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = _data("someone/stories", subset="small", revision="v1", split="train")
    assert data.facts()["train"]["documents"] == 48
    assert asked == [(("someone/stories", "small"), {"split": "train", "revision": "v1", "streaming": True})]


def test_a_copy_has_files_of_limited_size(by_name: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "SHARD", 300)
    monkeypatch.setattr(hub, "_AT_ONCE", 7)
    files = hub.copied_files(str(by_name), None, "train", None, ["text"])
    assert len(files) == 3
    assert files == sorted(files)
    assert _texts(_data(by_name, validation=0, test=0), "train") == ROWS["text"]


def test_a_copy_that_was_stopped_is_made_anew(by_name: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = datasets.load_dataset

    def stopping(*args: Any, **named: Any) -> Any:
        for number, row in enumerate(load(*args, **named)):
            if number == 30:
                raise KeyboardInterrupt
            yield row

    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_dataset", stopping)
        with pytest.raises(KeyboardInterrupt):
            _data(by_name).prepare_data()
    assert not list(cache.glob("hub-*"))
    assert _texts(_data(by_name, validation=0, test=0), "train") == ROWS["text"]


def _without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def refuse(name: str, *args: Any, **named: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return imported(name, *args, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_the_missing_package_is_named(by_name: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_package(monkeypatch)
    with pytest.raises(DataError, match=r"needs the package datasets: pip install 'blockformer\[datasets\]'"):
        _data(by_name).prepare_data()


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("saved", {"split": "trian"}, "there is no split 'trian'; did you mean 'train'?"),
    ("saved", {"validation_split": "dev", "validation": 0.05}, "there is no split 'dev'; it has train, test"),
    ("saved", {"column": "txt"}, "there is no column 'txt'; did you mean 'text'?"),
    ("saved", {"column": "n"}, "row 1: n must be text, not int"),
    ("saved", {"revision": "main"}, "data.revision has no effect with a folder of save_to_disk; remove it"),
    ("saved", {"path": ""}, "dataset hub needs path: a folder of save_to_disk, or the name of a dataset"),
    ("saved", {"test_split": "test", "test": 0.2}, "data.test has no effect with test_split; remove it"),
    ("by_name", {"column": "txt"}, "train, row 1: there is no column 'txt'; did you mean 'text'?"),
    ("by_name", {"column": "n"}, "train, row 1: n must be text, not int"),
    ("by_name", {"split": "none"}, "none: datasets cannot read it: "),
    ("by_name", {"path": "/no/such/folder"}, "data.path /no/such/folder: there is no such folder, and the name of"),
    ("by_name", {"path": "no/such/folder"}, "data.path no/such/folder: there is no such folder, and the name of"),
    ("by_name", {"path": __file__}, "test_hub.py: is a file; name its folder, or read it with --data.dataset table"),
]


@pytest.mark.parametrize(("kind", "settings", "message"), WRONG)
def test_what_is_wrong_is_named(
    kind: str, settings: dict[str, Any], message: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(kind)
    with pytest.raises(DataError, match=re.escape(message)) as raised:
        _data(**({"path": path} | settings)).prepare_data()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dataset_dict.json", '{"splits": ["../x"]}'),
        ("train/state.json", "{"),
        ("dataset_dict.json", '{"splits": "train"}'),
        ("dataset_dict.json", "[" * 100_000),
        ("train/state.json", '{"_data_files": []}'),
        ("train/state.json", '{"splits": ["train"]}'),
        ("train/state.json", '{"splits": ["train"], "_data_files": [{"filename": "../../secret.arrow"}]}'),
        ("train/state.json", '{"_data_files": [{"filename": "a\\u0000b"}]}'),
    ],
)
def test_a_damaged_folder_is_named(name: str, content: str, saved: Path) -> None:
    (saved / name).write_text(content)
    with pytest.raises(DataError, match=rf"{name}: is not what save_to_disk writes: "):
        _data(saved).prepare_data()


@pytest.mark.parametrize("linked", ["train", "train/state.json", "train/data-00000-of-00002.arrow"])
def test_no_link_leads_out_of_a_folder(linked: str, saved: Path, tmp_path: Path) -> None:
    (saved / linked).rename(tmp_path / "elsewhere")
    (saved / linked).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="points outside the folder"):
        _data(saved).prepare_data()


@pytest.mark.parametrize("way", ["above", "absolute", "pattern", "link"])
def test_a_folder_of_data_files_reads_no_file_outside_it(way: str, by_name: Path, tmp_path: Path) -> None:
    outside = tmp_path / "private" / "secret.jsonl"
    outside.parent.mkdir()
    outside.write_text((by_name / "train.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    if way == "link":
        (by_name / "train.jsonl").unlink()
        (by_name / "train.jsonl").symlink_to(outside)
    else:
        files = {"above": "../private/secret.jsonl", "absolute": outside, "pattern": "../private/*.jsonl"}[way]
        card = f"---\nconfigs:\n- config_name: default\n  data_files: '{files}'\n---\n"
        (by_name / "README.md").write_text(card)
    with pytest.raises(DataError, match="points outside the folder; only files inside it are read"):
        _data(by_name).prepare_data()


def test_rows_chosen_by_an_index_are_refused(saved: Path) -> None:
    state = json.loads((saved / "train" / "state.json").read_text())
    (saved / "train" / "state.json").write_text(json.dumps(state | {"_indices_files": [{"filename": "i.arrow"}]}))
    with pytest.raises(DataError, match=r"train: its rows are chosen by an index; save it anew after flatten_indices"):
        _data(saved).prepare_data()


def test_a_path_may_begin_with_the_home_folder(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(saved.parent))
    assert _texts(_data("~/saved", validation=0, test=0), "train") == ROWS["text"]


def test_a_folder_that_changes_while_it_is_read_is_not_kept(
    by_name: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    rows = hub._rows

    def changing(*given: Any) -> Any:
        yield from rows(*given)
        (by_name / "train.jsonl").write_text("{}")

    monkeypatch.setattr(hub, "_rows", changing)
    with pytest.raises(DataError, match=r"its files changed while they were read; start again"):
        _data(by_name).prepare_data()
    assert not list(cache.rglob("*.parquet"))
