import errno
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from blockformer import files
from blockformer.assembly import checkpoint
from blockformer.assembly.loading import load_with_metadata
from blockformer.data.tokenizers import stored


@pytest.fixture(scope="module")
def run(fit: Callable[..., Path]) -> Path:
    return fit("--trainer.max_steps", "3", "--trainer.val_check_interval", "3", name="for-checkpoints")


def test_a_checkpoint_alone_gives_its_model_back(run: Path, text: Path) -> None:
    model, metadata = load_with_metadata(run / "checkpoints" / "last.ckpt")
    assert not model.training
    assert (metadata["step"], metadata["kind"], metadata["objective"]) == (3, "decoder_only", "causal_lm")
    assert metadata["tokens"] == 3 * 16 * 32
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {f"model.{name}": tensor.sum() for name, tensor in model.state_dict().items()} == {
        name: tensor.sum() for name, tensor in saved.items()
    }


def test_a_checkpoint_brings_its_tokenizer_and_says_what_it_learned_from(run: Path) -> None:
    metadata = checkpoint.read_metadata(run / "checkpoints" / "best.ckpt")
    made = stored.from_dump(metadata["tokenizer"])
    assert made.decode(made.encode("the quick brown fox")) == "the quick brown fox"
    assert len(metadata["data"]["sha256"]) == 64
    assert metadata["config"]["optimizer"]["warmup_steps"] == 2
    assert metadata["evaluation"]["val/loss"] > 0


def test_loading_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "owned",)  # type: ignore[return-value]

    path = tmp_path / "evil.ckpt"
    torch.save({"blockformer": Evil()}, path, pickle_module=pickle)
    with pytest.raises(checkpoint.LoadError, match="more than tensors and plain data"):
        load_with_metadata(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("kept", [0, 1, 1000, -1])
def test_a_file_that_was_cut_short_is_refused(run: Path, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.ckpt"
    path.write_bytes((run / "checkpoints" / "last.ckpt").read_bytes()[:kept])
    with pytest.raises(checkpoint.LoadError, match=r"cut\.ckpt: is truncated, damaged"):
        load_with_metadata(path)


def test_weights_of_another_shape_are_refused(run: Path, tmp_path: Path) -> None:
    content = checkpoint.read_checkpoint(run / "checkpoints" / "last.ckpt")
    content["blockformer"]["recipe"]["dim"] = 64
    torch.save(content, tmp_path / "mixed.ckpt")
    with pytest.raises(checkpoint.LoadError, match="weights do not fit the recipe"):
        load_with_metadata(tmp_path / "mixed.ckpt")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"whole")

    def fail(stream: object) -> None:
        stream.write(b"half")  # type: ignore[attr-defined]
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        files.write_atomically(path, fail)
    assert path.read_bytes() == b"whole"
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_ends_the_run_in_one_line_and_leaves_the_checkpoint_before(
    arguments: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from blockformer.cli.main import main

    save, saved = torch.save, []

    def fill(content: dict[str, Any], stream: object) -> None:
        saved.append(content["global_step"])
        if len(saved) > 2:
            try:
                raise OSError(errno.ENOSPC, "No space left on device")
            finally:  # as torch does when its writer is closed
                raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")
        save(content, stream)

    monkeypatch.setattr(torch, "save", fill)
    never = ["--trainer.limit_val_batches", "0", "--trainer.max_steps", "9", "--run.save_every", "1"]
    assert main(["fit", *arguments, "--run.root", str(runs), "--run.name", "full", *never]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    last = runs / "full" / "checkpoints" / "last.ckpt"
    assert line == f"the run failed: {last}: No space left on device"
    assert checkpoint.read_metadata(last)["step"] == 2
    assert [entry.name for entry in last.parent.iterdir()] == ["last.ckpt"]


def test_no_moment_shows_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"old")
    seen: list[bytes] = []

    def write(stream: object) -> None:
        for piece in (b"ne", b"w"):
            stream.write(piece)  # type: ignore[attr-defined]
            stream.flush()  # type: ignore[attr-defined]
            seen.append(path.read_bytes())

    files.write_atomically(path, write)
    assert seen == [b"old", b"old"]
    assert path.read_bytes() == b"new"
