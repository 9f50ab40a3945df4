"""Token files made elsewhere: every format, rows as of a text, checks with file and place."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blockformer.data.corpora import token_files
from blockformer.data.corpora.token_files import recognise
from blockformer.data.module import TextData
from blockformer.data.samples import UNSCORED
from blockformer.data.sequences import Shards
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.errors import DataError
from blockformer.training.objectives import CausalLM, MaskedLM
from blockformer.training.objectives.causal_lm import PackedRows
from tests.data.encoded import encoded

END = 40
DOCUMENTS = [[n % END for n in range(start, start + 3 + start % 11)] for start in range(0, 300, 7)]
IDS = np.array([token for document in DOCUMENTS for token in (END, *document)])
FORMATS = ("npy", "big-endian npy", "llm.c 16", "llm.c 32", "raw 16", "raw 32")


def write(path: Path, ids: Any, form: str) -> Path:
    """A file of token ids; raw ones need data.dtype."""
    ids = np.asarray(ids)
    match form:
        case "npy":
            np.save(path := path.with_suffix(".npy"), ids.astype(np.uint16))
        case "big-endian npy":
            np.save(path := path.with_suffix(".npy"), ids.astype(">i4"))
        case "llm.c 16" | "llm.c 32":
            magic, version, kind = (20240520, 1, "<u2") if form.endswith("16") else (20240801, 7, "<u4")
            header = np.zeros(256, "<i4")
            header[:3] = magic, version, len(ids)
            path = path.with_suffix(".bin")
            path.write_bytes(header.tobytes() + ids.astype(kind).tobytes())
        case _:
            path = path.with_suffix(".bin")
            path.write_bytes(ids.astype("<u2" if form.endswith("16") else "<u4").tobytes())
    return path


def _data(*files: Path, **more: Any) -> TextData:
    given = {
        "vocab_size": 50,
        "separator": END,
        "length": 16,
        "batch_size": 4,
        "validation": 0,
        "test": 0,
        "objective": CausalLM(),
    } | more
    return TextData("token_files", files=[str(file) for file in files], **given)


def _rows(data: TextData, split: str = "train") -> dict[str, torch.Tensor]:
    samples = data.samples(split)  # type: ignore[arg-type]
    return samples.batch(np.arange(len(samples)), 0)


def _stream(data: TextData, split: str) -> list[int]:
    return [token for row in _rows(data, split)["tokens"].tolist() for token in row]


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_has_the_same_rows(form: str, tmp_path: Path) -> None:
    dtype = f"uint{form[-2:]}" if form.startswith("raw") else None
    batch = _rows(_data(write(tmp_path / "a", IDS, form), dtype=dtype))
    flat = batch["tokens"].flatten()[: len(IDS)]
    assert flat.tolist() == IDS.tolist()
    assert batch["targets"].flatten()[: len(IDS)].tolist() == [*IDS[1:].tolist(), END]
    assert "bytes" not in batch
    numbers = np.cumsum(IDS == END)
    documents = batch["documents"].flatten()[: len(IDS)].numpy()
    same = (documents[1:] == documents[:-1])[np.arange(1, len(IDS)) % 16 != 0]
    assert (same == (numbers[1:] == numbers[:-1])[np.arange(1, len(IDS)) % 16 != 0]).all()


def test_ids_of_our_tokenizer_give_the_rows_of_the_text(tmp_path: Path) -> None:
    tokenizer = ByteTokenizer()
    documents = encoded([f"document {n}" * (n % 4 + 1) for n in range(30)], tokenizer, before=tokenizer.bos)
    ids = documents.flat[np.arange(len(documents.flat))]
    ours = _rows(_data(write(tmp_path / "a", ids, "raw 16"), dtype="uint16", vocab_size=260, separator=tokenizer.bos))
    packed = PackedRows(documents, tokenizer, 16)
    theirs = packed.batch(np.arange(len(packed)), 0)
    targets = theirs["targets"].masked_fill(
        theirs["targets"] == tokenizer.eos, tokenizer.bos
    )  # which ends documents here
    assert torch.equal(ours["targets"], targets)
    for key in ("tokens", "documents"):
        assert torch.equal(ours[key], theirs[key]), key


def test_without_a_separator_ids_are_one_document(tmp_path: Path) -> None:
    batch = _rows(_data(write(tmp_path / "a", IDS, "npy"), separator=None))
    assert "documents" not in batch
    targets = batch["targets"].flatten()
    assert targets[: len(IDS)].tolist() == [*IDS[1:].tolist(), UNSCORED]
    assert (targets[len(IDS) :] == UNSCORED).all()


def test_files_of_any_sizes_are_read_as_one(tmp_path: Path) -> None:
    places = [0, 1, 100, 107, 250, len(IDS)]
    parts = list(pairwise(places))
    forms = ["npy", "llm.c 16", "npy", "llm.c 32", "big-endian npy"]
    files = [
        write(tmp_path / f"{n}", IDS[a:b], form) for n, ((a, b), form) in enumerate(zip(parts, forms, strict=True))
    ]
    whole, several = _rows(_data(write(tmp_path / "whole", IDS, "npy"))), _rows(_data(*files))
    assert all(torch.equal(several[key], whole[key]) for key in whole)


def test_shards_of_different_lengths_are_one_array() -> None:
    arrays = [np.arange(5), np.arange(5, 5), np.arange(5, 6), np.arange(6, 20)]
    shards = Shards(arrays)
    where = np.array([[0, 19, 5], [4, 6, 5]])
    assert len(shards) == 20
    assert (shards[where] == where).all()
    assert len(Shards([])) == 0


@pytest.mark.parametrize("separator", [END, None])
def test_shares_are_cut_from_the_end_between_documents(separator: int | None, tmp_path: Path) -> None:
    files = [write(tmp_path / "a", IDS[:131], "npy"), write(tmp_path / "b", IDS[131:], "npy")]
    data = _data(*files, validation=0.1, test=0.2, separator=separator)
    sizes = {split: data.facts()[split]["tokens"] for split in ("train", "validation", "test")}
    assert sum(sizes.values()) == len(IDS)
    for split, share in (("validation", 0.1), ("test", 0.2)):
        assert abs(sizes[split] - share * len(IDS)) <= (14 if separator else 1)
    order = [_stream(data, split)[: sizes[split]] for split in ("train", "test", "validation")]
    assert [token for ids in order for token in ids] == IDS.tolist()
    if separator:
        assert [ids[0] for ids in order] == [END] * 3


def test_own_files_for_validation(tmp_path: Path) -> None:
    train, other = write(tmp_path / "train", IDS, "npy"), write(tmp_path / "val", IDS[:50], "llm.c 16")
    data = _data(train, validation_files=str(other), test=0.1, validation=0.05)
    assert _stream(data, "validation")[:50] == IDS[:50].tolist()
    facts = data.facts()
    assert facts["files"] == {"train": ["train.npy"], "validation": ["val.bin"], "test": []}
    assert facts["documents"] == len(DOCUMENTS) + int((IDS[:50] == END).sum())
    with pytest.raises(DataError, match=r"data\.validation has no effect with validation_files"):
        _data(train, validation_files=str(other), validation=0.2)


def test_a_file_is_scanned_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a", IDS, "npy")
    read: list[Path] = []
    parts = token_files._parts
    monkeypatch.setattr(token_files, "_parts", lambda file: read.append(file.path) or parts(file))
    hashed = _data(path).facts()["sha256"]
    assert read == [path]
    assert _data(path, vocab_size=41, validation=0.0).facts()["sha256"] == hashed
    assert read == [path]
    write(path, IDS[::-1], "npy")
    assert _data(path).facts()["sha256"] != hashed
    assert read == [path, path]


WRONG = {
    "an id": (
        "npy",
        {"vocab_size": 40, "separator": None},
        "token 1: id 40 is outside of data.vocab_size 40 (the largest is 40)",
    ),
    "a negative id": ("negative", {}, "token 3: id -7 is outside of data.vocab_size 50"),
    "a separator": ("npy", {"separator": 50}, "data.separator 50 must be less than data.vocab_size 50"),
    "no vocabulary": ("npy", {"vocab_size": None}, "dataset token_files needs vocab_size: how many different ids"),
    "another type": ("npy", {"dtype": "uint32"}, "its header says uint16, and data.dtype is uint32: leave it out"),
    "no type": ("raw 16", {}, "has no header: set --data.dtype to uint16 or uint32"),
    "half a number": (
        "odd",
        {"dtype": "uint32"},
        "its 6 bytes are not a whole number of uint32; set another",
    ),
    "a cut file": ("cut", {}, "its header says 20 tokens, and it has 18.5: copy it again"),
    "a negative size": ("less", {}, "its header says -100 tokens, and it has -100: copy it again"),
    "questions": ("questions", {}, "is a file of questions of llm.c, not of tokens"),
    "floats": ("floats", {}, "holds float64 of shape (3,); ids are integers on one axis"),
    "a table": ("table", {}, "holds int64 of shape (2, 2); ids are integers on one axis"),
    "no header": ("bare", {}, "has no header of NumPy; if its ids are raw, name it .bin and set --data.dtype"),
    "objects": ("objects", {}, "is no NumPy array that can be read: "),
    "nothing": ("empty", {"dtype": "uint16"}, "is empty"),
    "an ending": ("text", {}, "the ending .txt is not that of token files: .npy, .bin"),
    "a folder": ("folder", {}, "is a folder; name files, or a pattern such as "),
}


ARRAYS = {"floats": np.ones(3), "table": np.ones((2, 2), np.int64), "negative": [1, 2, -7], "objects": np.array([{}])}
BYTES = {"odd.bin": b"123456", "bare.npy": b"1234", "text.txt": b"1234", "empty.bin": b""}
BYTES["less.bin"] = np.array([20240520, 1, -100], "<i4").tobytes() + bytes(1024 - 12 - 200)
BYTES["questions.bin"] = np.array([20240522, 1, 0, 0], "<i4").tobytes()


def _wrong_file(folder: Path, what: str) -> Path:
    if what in ARRAYS:
        np.save(path := folder / "x.npy", ARRAYS[what], allow_pickle=True)
        return path
    for name, content in BYTES.items():
        if name.startswith(what):
            (path := folder / name).write_bytes(content)
            return path
    if what == "folder":
        (path := folder / "x.bin").mkdir()
    elif what == "cut":
        path = write(folder / "x", range(20), "llm.c 16")
        path.write_bytes(path.read_bytes()[:-3])
    else:
        path = write(folder / "x", IDS, what)
    return path


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_a_file_is_named(what: str, tmp_path: Path) -> None:
    kind, settings, message = WRONG[what]
    path = _wrong_file(tmp_path, kind)
    with pytest.raises(DataError, match=re.escape(message)) as raised:
        _data(path, **settings).prepare_data()
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value) or "data." in str(raised.value) or what == "no vocabulary"


@pytest.mark.parametrize("dtype", [None, "uint16"])
def test_a_header_of_an_unknown_version_is_not_read_as_tokens(dtype: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(np.array([20240520, 9, 9], "<i4").tobytes())
    with pytest.raises(DataError, match=r"a\.bin: has version 9 of the format of llm\.c; known: 1"):
        recognise(path, dtype)


@pytest.mark.parametrize(
    "shape", [f"({2**70},)", "(True,)", f"({'-' * 5000}1,)", "(" * 300, "{[]: 1}", f"({10**18},)", "(-4,)", "(2.0,)"]
)
def test_a_damaged_header_of_numpy_is_refused_in_one_line(shape: str, tmp_path: Path) -> None:
    header = f"{{'descr': '<u2', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    path, size = tmp_path / "a.npy", len(header).to_bytes(2, "little")
    path.write_bytes(b"\x93NUMPY\x01\0" + size + header + bytes(64))
    with pytest.raises(DataError, match=r"a\.npy: is no NumPy array that can be read: ") as raised:
        recognise(path, None)
    assert "\n" not in str(raised.value)


def test_what_means_nothing_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a", IDS, "npy")
    with pytest.raises(DataError, match=r"data\.tokenizer has no effect with dataset 'token_files'"):
        _data(path, tokenizer="bytes")
    with pytest.raises(DataError, match=r"objective masked_lm cannot use dataset token_files: choose docstrings"):
        _data(path, objective=MaskedLM())


def test_documents_are_kept_apart_only_where_there_are_several(tmp_path: Path) -> None:
    path = write(tmp_path / "a", IDS, "npy")
    assert "documents" in _rows(_data(path))
    assert "documents" not in _rows(_data(path, objective=CausalLM(separate_documents=False)))
    assert "documents" not in _rows(_data(path, separator=None))
