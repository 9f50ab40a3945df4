import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from blockformer import build, check, load
from blockformer.huggingface import HuggingFaceError, read_folder, write_folder
from registry import load_recipe
from tests.huggingface.conftest import LLAMA, Folder


def problems(folder: Path, family: str | Path | None = None) -> str:
    with pytest.raises(HuggingFaceError) as caught:
        read_folder(folder, family)
    return str(caught.value)


def test_an_imported_model_is_the_exported_one(llama: Folder, tmp_path: Path) -> None:
    imported = read_folder(llama.path)
    model = load(write_folder(imported, tmp_path / "out"))
    assert imported.recipe.hash == load_recipe(LLAMA).hash
    for name, tensor in build(LLAMA, seed=1).state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert not model.training


def test_the_dtype_is_kept(llama: Folder, tmp_path: Path) -> None:
    llama.change(lambda tensors: {name: tensor.bfloat16() for name, tensor in tensors.items()})
    out = write_folder(read_folder(llama.path), tmp_path / "out")
    assert {parameter.dtype for parameter in load(out).parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in load(out, dtype=torch.float32).parameters()} == {torch.float32}


def test_an_unread_config_key_is_an_error(llama: Folder) -> None:
    text = problems(llama.configure(attention_twist=3))
    reason = "attention_twist: family 'llama' does not read this key, which may change the model"
    assert text == f"{llama.path}/config.json: {reason}"


def test_an_unread_key_inside_a_mapping_is_an_error(llama: Folder) -> None:
    scaling = {"rope_type": "linear", "factor": 2.0, "bend": 1.0}
    assert "config.json: rope_scaling.bend: family 'llama' does not read" in problems(
        llama.configure(rope_scaling=scaling)
    )


def test_keys_that_do_not_affect_the_logits_are_ignored(llama: Folder) -> None:
    read_folder(llama.configure(attention_dropout=0.3, torch_dtype="bfloat16", bos_token_id=1, use_cache=True))


def test_an_unsupported_value_is_an_error(llama: Folder) -> None:
    assert "quantization_config: is" in problems(llama.configure(quantization_config={"bits": 4}))


def test_a_missing_key_is_reported_with_the_line_that_reads_it(llama: Folder) -> None:
    text = problems(llama.configure(without=("hidden_size",), hiden_size=16))
    assert "families/llama.yaml:" in text
    message = "the config has no key 'hidden_size', and the family has no default for it; did you mean 'hiden_size'?"
    assert f"recipe.dim: {message}" in text


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("intermediate_size", "many", 'must be an integer, not "many" (recipe.decoder.layer.feedforward.hidden, '),
        ("max_position_embeddings", {"__float__": "Infinity"}, "must be an integer, not Infinity (recipe.max_length, "),
        ("rms_norm_eps", -1.0, "must be greater than 0, not -1.0 (recipe.decoder.layer.residual.norm.eps, "),
    ],
)
def test_a_wrong_value_is_told_by_the_key_of_the_config(llama: Folder, key: str, value: Any, message: str) -> None:
    text = problems(llama.configure(**{key: value}))
    assert f"{llama.path}/config.json: {key}: {message}" in text
    assert "families/llama.yaml:" in text


def test_a_wrong_key_of_a_family_is_no_fault_of_the_config(llama: Folder, tmp_path: Path) -> None:
    matched = "match: {model_type: llama, architectures: LlamaForCausalLM}"
    wrong = f"extends: llama\n{matched}\nlet: {{norm: {{type: rms, epss: =rms_norm_eps}}}}\n"
    (tmp_path / "mine.yaml").write_text(wrong)
    text = problems(llama.path, tmp_path / "mine.yaml")
    assert "norm 'rms' has no parameter 'epss'" in text
    assert "config.json" not in text


def test_a_key_that_is_not_read_is_not_blamed(llama: Folder, tmp_path: Path) -> None:
    matched = "match: {model_type: llama, architectures: LlamaForCausalLM}"
    (tmp_path / "mine.yaml").write_text(f"extends: llama\n{matched}\nlet: {{norm: {{type: rms, eps: -1}}}}\n")
    text = problems(llama.configure(pad_token_id=-1), tmp_path / "mine.yaml")
    assert "mine.yaml:3: " in text or "llama.yaml:" in text
    assert "must be greater than 0, not -1" in text
    assert "pad_token_id" not in text


def test_values_that_do_not_fit_each_other_are_told_with_their_keys(llama: Folder) -> None:
    text = problems(llama.configure(num_attention_heads=5, num_key_value_heads=3))
    assert "families/llama.yaml:" in text
    assert "recipe.decoder.layer.mixer: heads=5 is not a multiple of kv_heads=3" in text
    assert text.endswith("in config.json, num_attention_heads is 5 and num_key_value_heads is 3")


def test_a_value_without_a_case_is_told_with_its_key(llama: Folder) -> None:
    assert 'no case for "bend", the value of hidden_act in the config' in problems(llama.configure(hidden_act="bend"))


def test_unread_and_missing_tensors_are_errors(llama: Folder) -> None:
    def renamed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors["model.norm.gain"] = tensors.pop("model.norm.weight")
        return tensors

    first, second = problems(llama.change(renamed)).splitlines()
    assert first.startswith(f"{llama.path}: model.norm.gain: is decoder.norm.gain by the rule at ")
    assert first.endswith("but the model has no such parameter; did you mean 'decoder.norm.weight'?")
    assert (
        second == f"{llama.path}: decoder.norm.weight: this parameter has no value: the folder has no tensor model.norm"
    )


def test_a_tensor_of_another_shape_is_an_error(llama: Folder) -> None:
    text = problems(llama.change(lambda tensors: {**tensors, "model.norm.weight": torch.ones(17)}))
    assert "model.norm.weight: has shape (17,); expected (16,)" in text


def test_unused_tensors_are_ignored(llama: Folder) -> None:
    read_folder(
        llama.change(lambda tensors: {**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)})
    )


def test_a_tied_tensor_may_be_stored_if_it_is_equal(llama: Folder) -> None:
    llama.configure(tie_word_embeddings=True)
    assert "lm_head.weight: differs from model.embed_tokens.weight, but the family ties the two" in problems(llama.path)
    llama.change(lambda tensors: {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]})
    assert "head.project.weight" not in read_folder(llama.path).parameters


def test_a_tied_tensor_may_be_stored_instead_of_the_original(llama: Folder) -> None:
    llama.configure(tie_word_embeddings=True)
    kept = load_file(llama.path / "model.safetensors")["model.embed_tokens.weight"]
    llama.change(
        lambda tensors: (
            {k: v for k, v in tensors.items() if k != "model.embed_tokens.weight"} | {"lm_head.weight": kept}
        )
    )
    assert torch.equal(read_folder(llama.path).parameters["embedding.tokens.weight"], kept)


def test_shards_with_an_index_are_one_model(llama: Folder) -> None:
    whole = read_folder(llama.path).parameters
    tensors = load_file(llama.path / "model.safetensors")
    (llama.path / "model.safetensors").unlink()
    places = {name: f"model-{index % 2}.safetensors" for index, name in enumerate(tensors)}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in tensors if places[name] == file}, llama.path / file)
    (llama.path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    parts = read_folder(llama.path).parameters
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())

    (llama.path / "model-1.safetensors").unlink()
    assert "model.safetensors.index.json: the file 'model-1.safetensors' is missing" in problems(llama.path)


def test_a_pickled_checkpoint_is_read_as_plain_tensors(llama: Folder) -> None:
    tensors = load_file(llama.path / "model.safetensors")
    (llama.path / "model.safetensors").unlink()
    torch.save(tensors, llama.path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert read_folder(llama.path).parameters.keys() == check(load_recipe(LLAMA)).state_dict().keys()
    torch.save({"evil": Path}, llama.path / "pytorch_model.bin")
    assert "pytorch_model.bin: cannot be read as plain tensors" in problems(llama.path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "config.json: is not valid JSON"),
        ("config.json", "[]", "config.json: must contain a JSON object"),
        ("model.safetensors", "damaged", "model.safetensors: cannot be read"),
    ],
)
def test_damaged_files_are_named(llama: Folder, file: str, content: str, message: str) -> None:
    (llama.path / file).write_text(content)
    assert message in problems(llama.path)


def test_missing_files_are_named(llama: Folder, tmp_path: Path) -> None:
    (llama.path / "model.safetensors").unlink()
    assert "contains no weights: expected model.safetensors, model.safetensors.index.json" in problems(llama.path)
    assert "nowhere/config.json: cannot be read: No such file or directory" in problems(tmp_path / "nowhere")


def test_an_existing_folder_is_not_overwritten(llama: Folder) -> None:
    with pytest.raises(HuggingFaceError, match="already exists"):
        write_folder(read_folder(llama.path), llama.path)


def test_the_tokenizer_is_copied(llama: Folder, tmp_path: Path) -> None:
    (llama.path / "tokenizer.json").write_text("{}")
    out = write_folder(read_folder(llama.path), tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == ["model.safetensors", "recipe.yaml", "tokenizer.json"]
    assert not list(tmp_path.glob(".*"))


def test_quantised_weights_are_refused_in_plain_words(llama: Folder) -> None:
    llama.configure(quantization_config={"quant_method": "gptq", "bits": 4})
    assert "quantization_config: is {quant_method: gptq, bits: 4}; family 'llama' supports only null" in problems(
        llama.path
    )


UNSOUND = {
    "integers": (lambda tensor: tensor.long(), "is of torch.int64"),
    "booleans": (lambda tensor: tensor > 0, "is of torch.bool"),
    "NaN": (lambda tensor: tensor.index_fill(0, torch.tensor([1]), float("nan")), "is not finite"),
    "infinity": (lambda tensor: tensor.bfloat16().index_fill(0, torch.tensor([0]), float("-inf")), "is not finite"),
}


@pytest.mark.parametrize("kind", UNSOUND)
def test_tensors_that_are_no_weights_are_named(kind: str, llama: Folder) -> None:
    change, message = UNSOUND[kind]
    names = ("model.norm.weight", "model.layers.0.mlp.down_proj.weight")
    llama.change(lambda tensors: {**tensors, **{name: change(tensors[name]) for name in names}})
    lines = problems(llama.path).splitlines()
    assert len(lines) == len(names)
    assert all(any(f"{name}: {message}" in line for line in lines) for name in names)
