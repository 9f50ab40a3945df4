from pathlib import Path

import pytest
import torch

from blockformer import build, load
from blockformer.assembly.loading import LoadError

RECIPE = {"type": "decoder_only", "dim": 16, "vocab_size": 11, "max_length": 8, "decoder": {"depth": 1}}


def checkpoint(path: Path, seed: int = 3) -> torch.nn.Module:
    model = build(RECIPE, seed=seed)
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save(
        {"state_dict": {**state, "objective.x": torch.ones(1)}, "blockformer": {"format": 1, "recipe": RECIPE}}, path
    )
    return model


def test_a_checkpoint_gives_its_model(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "last.ckpt")
    loaded = load(tmp_path / "last.ckpt")
    assert not loaded.training
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_what_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("no")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    for name, message in {
        "text.ckpt": "is truncated, damaged or not a checkpoint",
        "other.ckpt": "is not a checkpoint of blockformer",
        "none.ckpt": "there is no such file",
        "hf": "a folder with a config.json must first be imported: blockformer import",
    }.items():
        with pytest.raises(LoadError) as caught:
            load(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_folder_of_a_run_gives_its_best_model_or_else_its_last(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "recipe.yaml").write_text("type: decoder_only\n")
    with pytest.raises(LoadError, match=r"has no model\.safetensors"):
        load(tmp_path)
    checkpoint(tmp_path / "checkpoints" / "last.ckpt", seed=4)
    model = checkpoint(tmp_path / "checkpoints" / "best.ckpt")
    for expected in (model, build(RECIPE, seed=4)):
        found = load(tmp_path).state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.state_dict().items())
        (tmp_path / "checkpoints" / "best.ckpt").unlink(missing_ok=True)


def test_weights_that_do_not_fit_are_said(tmp_path: Path) -> None:
    checkpoint(tmp_path / "last.ckpt")
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    content["state_dict"].popitem()
    content["state_dict"].popitem()
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(LoadError, match="the weights do not fit the recipe"):
        load(tmp_path / "last.ckpt")
