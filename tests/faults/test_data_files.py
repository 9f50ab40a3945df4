"""Damaged files of text and pairs, and a damaged cache of them: refused in one line, or read as they are."""

import gzip
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blockformer.data.module import TextData
from blockformer.data.prepared import Prepared
from blockformer.errors import DataError

Damage = Callable[[random.Random, bytes, Path], object]
TEXT = "".join(f"Line {n}: naïve café, 日本語 and “quotes” 🙂 of a text.\n" for n in range(60))
PAIRS = "".join(f"source {n % 50}, ¿qué?\tZiel {n}, Größe\n" for n in range(60))
ENCODINGS = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-8-sig", "utf-7", "gb18030", "shift_jis")
ODD = [
    "\0",
    "\ufeff",
    "\u2028",
    "\x85",
    "\x0c",
    "\r",
    "\r\n",
    "\t",
    "\ud800",
    "\x1b[2J",
    "<eos>",
    '"',
    "\u202e",
    "\xa0",
]


def _write(draw: random.Random, data: bytes, path: Path) -> None:
    """Another content: cut, changed, repeated, encoded otherwise or compressed."""
    where = draw.randrange(len(data))
    odd = draw.choice(ODD).encode("utf-8", "surrogatepass")
    replaced: list[Callable[[], bytes]] = [
        lambda: data[:where],
        lambda: data[where:],
        lambda: data[:where] + bytes([draw.randrange(256)]) + data[where + 1 :],
        lambda: data[:where] + draw.randbytes(draw.randint(1, 50)) + data[where:],
        lambda: data[:where] + odd + data[where:],
        lambda: data.replace(draw.choice([b"\n", b"\t", b" ", b"e"]), odd),
        lambda: data.decode(errors="replace").encode(draw.choice(ENCODINGS), "replace"),
        lambda: gzip.compress(data)[: draw.randint(1, 400)],
        lambda: draw.choice([b"", b"\n", b" \n\t\n", b"\xef\xbb\xbf", b"\0" * 5000, odd]),
        lambda: draw.randbytes(draw.randint(1, 3000)),
        lambda: b'{"text": "a"}\n' * draw.randint(1, 40),
        lambda: data.replace(b"\t", b","),
    ]
    path.write_bytes(draw.choice(replaced)())


def _replace(draw: random.Random, data: bytes, path: Path) -> None:
    """No file of text at all."""
    path.unlink()
    other = path.with_name("other")
    other.mkdir()
    ways: list[Callable[[], object]] = [
        lambda: None,
        path.mkdir,
        lambda: os.mkfifo(path),
        lambda: path.symlink_to(path),
        lambda: path.symlink_to(other / "missing"),
        lambda: path.symlink_to(draw.choice(["/dev/zero", "/dev/null", "/dev/random", "/proc/self/mem"])),
        lambda: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 10 ** draw.randint(5, 13)),
    ]
    draw.choice(ways)()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a cache of its own."""
    monkeypatch.setenv("BLOCKFORMER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _settings(draw: random.Random, path: Path) -> dict[str, Any]:
    dataset = "pairs" if path.suffix == ".tsv" else "text"
    bpe = {"tokenizer": "bpe", "vocab_size": 300} if draw.random() < 0.2 else {"tokenizer": "bytes"}
    return {"dataset": dataset, "files": str(path), "length": 128, "batch_size": 2, **bpe}


def _texts(prepared: Prepared, split: str) -> list[str]:
    """What the tokens of a split stand for."""
    both = prepared.pairs(split) if prepared.paired else (prepared.documents(split),)
    return [prepared.tokenizer.decode(sequence.tolist()) for part in both for sequence in part]


def _is_whole(prepared: Prepared, path: Path) -> bool:
    """Whether the splits together have the characters of the file, each once."""
    found = "".join(
        sorted("".join(text for split in ("train", "validation", "test") for text in _texts(prepared, split)))
    )
    text = path.read_bytes().decode("utf-8-sig")
    if not prepared.paired:
        return found == "".join(sorted(text))
    fields = [field.strip() for line in text.split("\n") if line.strip() for field in line.split("\t")]
    return found == "".join(sorted("".join(fields)))


def test_a_damaged_file_is_refused_in_one_line_or_read_as_it_is(
    tmp_path: Path, faults: int, tally: Callable[[str, str], None]
) -> None:
    for seed in range(faults):
        draw = random.Random(seed)
        folder = tmp_path / f"{seed}"
        folder.mkdir()
        path, text = draw.choice([(folder / "a.txt", TEXT), (folder / "a.tsv", PAIRS)])
        path.write_text(text, encoding="utf-8")
        draw.choice([_write, _write, _write, _replace])(draw, text.encode(), path)
        data = TextData(**_settings(draw, path))
        message = _refusal(data)
        if message is not None:
            assert "\n" not in message, seed
            assert message.count(f"{path}: ") < 2, (seed, message)
            assert any(where in message for where in (str(path), "too little text", "data.files")), (seed, message)
        else:
            assert _is_whole(data.prepared, path), f"seed {seed}: {data.notes('train', 'validation', 'test')}"
        tally("file of data", "read as it is" if message is None else "refused")


def _refusal(data: TextData) -> str | None:
    try:
        data.prepare_data()
    except DataError as error:
        return str(error)
    return None


def test_a_damaged_cache_is_repaired(
    tmp_path: Path, cache: Path, faults: int, tally: Callable[[str, str], None]
) -> None:
    (path := tmp_path / "a.tsv").write_text(PAIRS, encoding="utf-8")
    settings = _settings(random.Random(0), path) | {"tokenizer": "bpe", "vocab_size": 300}
    first = TextData(**settings).prepared
    wanted = [_texts(first, split) for split in ("train", "validation", "test")]
    for seed in range(faults):
        draw = random.Random(seed)
        files = sorted(file for file in cache.rglob("*") if file.is_file())
        victim = draw.choice(files)
        way = draw.random()
        if way < 0.1:
            victim.unlink()
        elif way < 0.2:
            shutil.rmtree(victim.parent)
        else:
            _write(draw, victim.read_bytes() or b"x", victim)
        again = TextData(**settings).prepared
        assert again.facts == first.facts, seed
        assert [_texts(again, split) for split in ("train", "validation", "test")] == wanted, seed
        tally("cache of data", "repaired")


@pytest.mark.slow
def test_the_command_answers_damaged_files(
    tmp_path: Path, faults: int, answer: Callable[..., Any], tally: Callable[[str, str], None]
) -> None:
    options = ["--recipe", "tiny_decoder", "--data.dataset", "text", "--data.tokenizer", "bytes", "--data.length", "32"]
    options += ["--data.batch_size", "2", "--trainer.max_steps", "1", "--optimizer.warmup_steps", "0", "--run.wandb"]
    options += ["disabled", "--run.root", str(tmp_path / "runs")]
    for seed in range(max(4, faults // 50)):
        draw = random.Random(seed)
        (folder := tmp_path / f"{seed}").mkdir()
        (path := folder / "a.txt").write_text(TEXT, encoding="utf-8")
        draw.choice([_write, _replace])(draw, TEXT.encode(), path)
        found = answer("fit", *options, "--data.files", path, "--run.name", seed)
        assert found.problem is None, (seed, found)
        assert found.status in (0, 2), (seed, found)
        tally("fit on a damaged file", "refused" if found.status else "trained")
