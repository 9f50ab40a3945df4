"""The mean of checkpoints."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from blockformer.assembly.checkpoint import model_weights, read_checkpoint
from blockformer.cli.main import main

Fit = Callable[..., Path]


@pytest.fixture(scope="module")
def checkpoints(fit: Fit) -> list[Path]:
    """The ends of three runs of one model that differ in the order of the data."""
    runs = [fit("--trainer.max_steps", "2", "--data.seed", str(seed), name=f"mean-of-{seed}") for seed in range(3)]
    return [run / "checkpoints" / "last.ckpt" for run in runs]


@pytest.mark.slow
def test_a_mean_has_the_mean_weights_and_can_be_used(
    checkpoints: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "mean.ckpt"
    assert main(["average", *map(str, checkpoints), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: the mean of 3 checkpoints\n"
    found, parts = model_weights(read_checkpoint(out)), [model_weights(read_checkpoint(path)) for path in checkpoints]
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, sum(part[name] for part in parts) / 3)
    assert any(not torch.equal(tensor, parts[0][name]) for name, tensor in found.items())
    assert main(["validate", "--ckpt_path", str(out), "--out", str(tmp_path / "figures")]) == 0
    assert main(["generate", str(out), "--prompt", "the", "--max-new-tokens", "3"]) == 0


def test_no_run_continues_from_a_mean(
    checkpoints: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mean.ckpt"
    main(["average", *map(str, checkpoints), "--out", str(out)])
    capsys.readouterr()
    given = ["--run.root", str(tmp_path), "--run.name", "goes-on", "--trainer.max_steps", "4"]
    assert main(["fit", "--ckpt_path", str(out), *given]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_has_no_mean_is_refused_in_one_line(
    checkpoints: list[Path], fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = fit("--trainer.max_steps", "1", "--recipe.decoder.layer.mixer.kv_heads=1", name="of-another-recipe")
    out, first = tmp_path / "mean.ckpt", str(checkpoints[0])
    refused = {
        "average needs two or more checkpoints": [first],
        "has another recipe than": [first, str(other / "checkpoints" / "last.ckpt")],
        "nowhere.ckpt": [first, "nowhere.ckpt"],
    }
    capsys.readouterr()
    for message, paths in refused.items():
        assert main(["average", *paths, "--out", str(out)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
        assert not out.exists()
    changed = torch.load(first, weights_only=True)
    name = next(iter(changed["state_dict"]))
    changed["state_dict"][name] = changed["state_dict"][name][:1]
    for others in (changed["state_dict"], {}):
        torch.save({**changed, "state_dict": others}, tmp_path / "changed.ckpt")
        for paths in ([first, str(tmp_path / "changed.ckpt")], [str(tmp_path / "changed.ckpt"), first]):
            assert main(["average", *paths, "--out", str(out)]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert "changed.ckpt" in line
            assert not out.exists()
    out.write_text("mine")
    assert main(["average", first, first, "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert out.read_text() == "mine"
