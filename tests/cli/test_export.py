"""`blockformer export`: the files that it writes, what transformers loads from them, and errors."""

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from blockformer import build
from blockformer.assembly.checkpoint import FORMAT
from blockformer.cli.main import main
from blockformer.data.options import DATA
from blockformer.data.tokenizers.bytes import ByteTokenizer
from blockformer.generation.text_model import TextModel
from blockformer.huggingface import ImportedModel, read_folder, read_source
from registry import load_recipe
from tests.huggingface.families.cases import CASES, Case
from tests.huggingface.families.originals import saved, without_parts

SEVERAL = ("llama", "bert", "t5")
GPT2 = {
    "type": "decoder_only",
    "dim": 32,
    "vocab_size": 260,
    "max_length": 48,
    "embedding": {"positions": "learned", "dropout": 0.1},
    "decoder": {
        "depth": 2,
        "layer": {
            "mixer": {"type": "attention", "heads": 4, "bias": True, "dropout": 0.1},
            "feedforward": {"type": "mlp", "hidden": 56, "activation": "gelu_tanh"},
            "residual": {"type": "pre", "norm": "layer", "dropout": 0.1},
        },
        "norm": "layer",
    },
    "init": {"type": "depth_scaled", "std": 0.2},
}

Make = Callable[..., Path]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Make:
    """Write a checkpoint like `fit` does, with random weights that all affect the logits."""

    def make(recipe: str | Mapping[str, Any], tokenizer: Any = None, name: str = "model.ckpt", **changes: Any) -> Path:
        loaded = load_recipe(recipe, changes)
        model = build(loaded, seed=3)
        with torch.random.fork_rng():
            torch.manual_seed(4)
            for parameter in model.parameters():
                parameter.data += 0.3 * torch.randn_like(parameter)
        about = {"format": FORMAT, "recipe": loaded.dump(), "kind": model.kind}
        about["tokenizer"] = None if tokenizer is None else tokenizer.dump()
        state = {f"model.{key}": value for key, value in model.state_dict().items()}
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"state_dict": state, "blockformer": about}, path)
        return path

    return make


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def export(path: Path, out: Path, *more: str) -> int:
    return main(["export", str(path), "--to", "hf", "--out", str(out), *more])


def written(folder: Path, text: str, tokens: int) -> str:
    """A text and its continuation by transformers."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=tokens, do_sample=False)
    return tokenizer.decode(ids[0], skip_special_tokens=True)


@pytest.mark.parametrize("recipe", [GPT2, "demo_lm"], ids=["gpt2", "demo_lm"])
def test_transformers_generates_the_same_text(
    recipe: Any, checkpoint: Make, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint(recipe, ByteTokenizer(), vocab_size=260)
    assert export(path, out) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("largest relative difference of the logits: ")
    assert said[2].startswith("not tried: padding before a text")
    assert said[3] == "tokenizer: 38 texts compared, all ids agree"
    ours = "".join(TextModel.load(path).stream("Once more", max_new_tokens=24))
    assert written(out, "Once more", 24) == f"Once more{ours}"


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_learned_tokenizer_keeps_its_ids(kind: str, checkpoint: Make, out: Path) -> None:
    texts = ["it was the best of times, it was the worst of times"] * 3
    component = DATA.make({"tokenizer": kind}, {"vocab_size": 280})["tokenizer"]
    path = checkpoint("tiny_decoder", ours := component.learn(lambda: texts))
    assert export(path, out) == 0
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    text = "the best <eos> of\n<pad> Größe 🏳️‍🌈"
    assert theirs(text)["input_ids"] == [ours.bos, *ours.encode(text)]
    assert theirs.decode(ours.encode(text)) == text
    assert (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id, theirs.mask_token_id) == (0, 1, 2, 3)


def test_an_exported_encoder_has_a_mask_token(tmp_path: Path, originals: Path, checkpoint: Make, out: Path) -> None:
    recipe = read_folder(saved(named("bert"), originals)).recipe.dump()
    path = checkpoint({**recipe, "vocab_size": 260}, ByteTokenizer())
    assert export(path, out) == 0
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    assert theirs("a<mask>")["input_ids"] == [ord("a") + 4, 3]
    assert type(transformers.AutoModelForMaskedLM.from_pretrained(out)).__name__ == "BertForMaskedLM"


def test_the_config_has_the_dtype_and_the_token_ids(checkpoint: Make, out: Path) -> None:
    assert export(checkpoint(GPT2, ByteTokenizer()), out, "--dtype", "bfloat16") == 0
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["GPT2LMHeadModel"]
    assert [config[f"{name}_token_id"] for name in ("pad", "bos", "eos")] == [0, 1, 2]
    assert config["torch_dtype"] == "bfloat16"
    assert transformers.AutoModelForCausalLM.from_pretrained(out).dtype == torch.bfloat16
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == 2


@pytest.mark.slow
def test_large_models_are_written_as_shards(checkpoint: Make, tmp_path: Path, out: Path) -> None:
    path = checkpoint("tiny_decoder")
    assert export(path, out, "--shard-size", "40KB") == 0
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert not (out / "model.safetensors").exists()
    assert export(path, tmp_path / "whole") == 0
    tensors = load_file(tmp_path / "whole" / "model.safetensors")
    assert set(index["weight_map"]) == set(tensors)


def test_a_run_folder_is_exported(
    checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint("tiny_decoder", name="runs/mine/checkpoints/last.ckpt")
    assert main(["export", "runs/mine", "--to", "hf"]) == 0
    assert (tmp_path / "mine-hf" / "config.json").is_file()
    assert "no tokenizer to export" in capsys.readouterr().out


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("originals")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case.name in SEVERAL else pytest.mark.slow) for case in CASES], ids=str
)
def test_an_imported_model_is_exported_bit_for_bit(case: Case, originals: Path, tmp_path: Path, out: Path) -> None:
    source, middle, again = saved(case, originals), tmp_path / "middle", tmp_path / "again"
    assert main(["import", str(source), "--out", str(middle)]) == 0
    assert export(middle, out) == 0
    before, after = (without_parts(load_file(folder / "model.safetensors")) for folder in (source, out))
    patterns = [*read_folder(source).family.list_section("computed"), "*embed_positions.weight"]  # sinusoids
    computed = {name for name in before for pattern in patterns if fnmatchcase(name, pattern)} - set(after)
    assert set(before) - computed == set(after)
    assert all(
        torch.equal(before[name], tensor) and before[name].dtype == tensor.dtype for name, tensor in after.items()
    )
    assert main(["import", str(out), "--verify", "--out", str(again)]) == 0
    assert load_recipe(again / "recipe.yaml").hash == load_recipe(middle / "recipe.yaml").hash


@pytest.mark.parametrize("name", SEVERAL)
def test_the_config_of_an_imported_model_is_restored(name: str, originals: Path, tmp_path: Path, out: Path) -> None:
    source = saved(named(name), originals)
    assert main(["import", str(source), "--out", str(tmp_path / "middle")]) == 0
    assert export(tmp_path / "middle", out, "--no-verify") == 0
    family = read_folder(out).family
    before, after = (transformers.AutoConfig.from_pretrained(folder) for folder in (source, out))
    usual = type(before)().to_dict()
    chosen = {key: value for key, value in before.to_dict().items() if value != usual.get(key, value)}
    assert chosen
    for key, value in chosen.items():
        found = getattr(after, key)
        same = found == value if not isinstance(value, dict) else value.items() <= found.items()
        assert same or family.ignores(key), f"{key} was {value} and is {found}"


@pytest.mark.slow
def test_the_tokenizer_of_an_imported_model_is_copied(
    originals: Path, checkpoint: Make, tmp_path: Path, out: Path
) -> None:
    source, middle = tmp_path / "source", tmp_path / "middle"
    assert export(checkpoint(GPT2, ByteTokenizer()), source) == 0
    assert main(["import", str(source), "--out", str(middle)]) == 0
    assert export(middle, out) == 0
    assert (out / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    (middle / "tokenizer_config.json").unlink()
    shutil.rmtree(out)
    assert export(middle, out) == 0
    assert json.loads((out / "tokenizer_config.json").read_text())["eos_token"] == "<eos>"


def test_an_unsupported_key_is_reported_with_its_line(
    tmp_path: Path, checkpoint: Make, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint("tiny_decoder", name="run/checkpoints/last.ckpt", **{"decoder.layer.mixer.softcap": 30.0})
    recipe = load_recipe("tiny_decoder", {"decoder.layer.mixer.softcap": 30.0})
    (tmp_path / "run" / "recipe.yaml").write_text(recipe.to_yaml())
    line = next(n for n, text in enumerate(recipe.to_yaml().splitlines(), 1) if "softcap: 30.0" in text)
    assert export(path, out) == 2
    first, remedy = capsys.readouterr().err.splitlines()
    key = "decoder.layer.mixer.softcap: is 30.0; llama does not support this: set it to null"
    assert first == f"{tmp_path}/run/recipe.yaml:{line}: {key}"
    assert "--custom" in remedy
    assert not out.exists()


def test_mismatches_are_those_of_the_chosen_family(
    checkpoint: Make, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(checkpoint("tiny_decoder"), out, "--family", "gpt2") == 2
    lines = capsys.readouterr().err.splitlines()
    keys = {line.split(": ")[1] for line in lines[:-1]}
    assert {"decoder.layer.feedforward", "decoder.layer.mixer.positions", "decoder.norm"} <= keys
    assert all("gpt2" in line for line in lines[:-1])
    assert export(checkpoint("tiny_decoder"), out, "--family", "lama") == 2
    assert "did you mean 'llama'?" in capsys.readouterr().err


def test_an_unsupported_block_is_one_mismatch(checkpoint: Make, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(checkpoint("demo_lm_no_feedforward"), out, "--family", "llama") == 2
    assert "decoder.layer.feedforward: is none; llama requires glu" in capsys.readouterr().err


def test_a_folder_that_differs_is_removed(
    checkpoint: Make, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from blockformer.huggingface import exporter

    def swapped(*arguments: Any) -> dict[str, torch.Tensor]:
        tensors = write(*arguments)
        tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.gate_proj.weight"].clone()
        return tensors

    write = exporter.tensors_from_parameters
    monkeypatch.setattr(exporter, "tensors_from_parameters", swapped)
    assert export(checkpoint("tiny_decoder"), out) == 1
    said = capsys.readouterr().out
    assert "decoder.layers.0" in said
    assert f"{out} was not written" in said
    assert list(out.parent.glob("*out*")) == []


def test_a_folder_whose_tokenizer_differs_is_removed(
    checkpoint: Make, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TextModel, "encode", lambda self, text: self.tokenizer.encode(text))  # forgets <bos>
    assert export(checkpoint("tiny_decoder", ByteTokenizer()), out) == 1
    assert "tokenizer encodes" in capsys.readouterr().out
    assert not out.exists()


def test_without_transformers_the_error_names_the_package_to_install(
    checkpoint: Make, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("blockformer.cli.export.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    path = checkpoint("tiny_decoder", ByteTokenizer())
    assert export(path, out) == 2
    assert "pip install 'blockformer[hf]'" in capsys.readouterr().err
    assert export(path, out, "--no-verify") == 0
    assert {"config.json", "tokenizer.json"} <= {file.name for file in out.iterdir()}


@pytest.mark.parametrize(
    ("path", "message"),
    [("nothing.ckpt", "there is no such file"), ("folder", "not a run's folder"), ("hub", "must first be imported")],
)
def test_a_mistake_is_one_line_and_status_2(
    path: str, message: str, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text("{}")
    assert export(tmp_path / path, out) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_an_existing_folder_and_a_wrong_size_are_rejected(
    checkpoint: Make, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint("tiny_decoder")
    assert export(path, out, "--shard-size", "much") == 2
    assert "--shard-size: 'much' is not a size" in capsys.readouterr().err
    out.mkdir()
    assert export(path, out) == 2
    assert "already exists" in capsys.readouterr().err


def test_an_imported_model_is_exported_with_its_family(originals: Path, tmp_path: Path) -> None:
    assert main(["import", str(saved(named("bert"), originals)), "--out", str(tmp_path / "middle")]) == 0
    assert read_source(tmp_path / "middle").family == "bert"
    assert isinstance(read_folder(saved(named("bert"), originals)), ImportedModel)
