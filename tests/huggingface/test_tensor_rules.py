"""Rules of a family that are not one tensor for one parameter."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from blockformer.huggingface import HuggingFaceError, export_folder, load_family, read_folder, write_folder
from blockformer.huggingface.exporter import read_source
from tests.huggingface.conftest import Folder

HEAD = "extends: llama\nmatch: {model_type: llama, architectures: LlamaForCausalLM}\n"
NORM = "model.layers.{}.input_layernorm.weight"


@pytest.fixture
def family(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(HEAD + text)
        return path

    return write


def exported(folder: Path, family: Path, out: Path) -> dict[str, torch.Tensor]:
    """The tensors of a folder after an import and an export."""
    imported = read_folder(folder, family)
    export_folder(imported.recipe, imported.parameters, out, load_family(family), unused=imported.unused)
    return load_file(out / "model.safetensors")


def problems(folder: Path, family: Path) -> str:
    with pytest.raises(HuggingFaceError) as caught:
        read_folder(folder, family)
    return str(caught.value)


def test_one_tensor_is_the_parameter_of_all_layers(llama: Folder, family: Any, tmp_path: Path) -> None:
    def shared(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors["model.input_layernorm.weight"] = tensors.pop(NORM.format(0))
        tensors.pop(NORM.format(1))
        return tensors

    llama.change(shared)
    rule = family("tensors: {model.input_layernorm: 'decoder.layers.{layer}.mixer_residual.norm'}")
    before, after = load_file(llama.path / "model.safetensors"), exported(llama.path, rule, tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    imported = read_folder(llama.path, rule)
    parameters = dict(imported.parameters)
    parameters["decoder.layers.1.mixer_residual.norm.weight"] = torch.zeros(16)
    with pytest.raises(
        HuggingFaceError, match=r"is one tensor for all layers, but .*layers.0.* and .*layers.1.* differ"
    ):
        export_folder(imported.recipe, parameters, tmp_path / "no", load_family(rule))


def test_a_parameter_is_a_multiple_of_the_stored_tensor(llama: Folder, family: Any, tmp_path: Path) -> None:
    rule = family("tensors: {model.norm: {to: decoder.norm, times: 2.0}}")
    stored = load_file(llama.path / "model.safetensors")["model.norm.weight"]
    assert torch.equal(read_folder(llama.path, rule).parameters["decoder.norm.weight"], 2 * stored)
    assert torch.equal(exported(llama.path, rule, tmp_path / "out")["model.norm.weight"], stored)
    rule = family("tensors: {model.norm: {to: decoder.norm, times: 0}}")
    assert "times must be a number other than 0" in problems(llama.path, rule)


CONSTANT = """
tensors:
  model.layers.{layer}.self_attn.k_proj.bias:
    {constant: 0.0, shape: [=hidden_size], for: "decoder.layers.{layer}.mixer.k.weight"}
"""


def test_a_constant_tensor_is_written_and_checked(llama: Folder, family: Any, tmp_path: Path) -> None:
    rule, name = family(CONSTANT), "model.layers.{}.self_attn.k_proj.bias"
    tensors = exported(llama.path, rule, tmp_path / "out")
    assert all(torch.equal(tensors[name.format(layer)], torch.zeros(16)) for layer in range(2))
    assert read_folder(tmp_path / "out", rule).recipe.hash == read_folder(llama.path, rule).recipe.hash
    llama.change(lambda tensors: {**tensors, name.format(1): torch.ones(16)})
    assert f"{name.format(1)}: must be 0 everywhere, of shape (16,); it is no parameter" in problems(llama.path, rule)


PARTS = """
let: {heads: =num_attention_heads * head_dim}
tensors:
  model.layers.{layer}.self_attn.q_proj:
    - {to: "decoder.layers.{layer}.mixer.q", where: layer > 0}
    - {to: "decoder.layers.{layer}.mixer.k", where: layer == 0}
  model.layers.{layer}.self_attn.k_proj:
    - {to: "decoder.layers.{layer}.mixer.k", where: layer > 0}
    - {to: "decoder.layers.{layer}.mixer.q", where: layer == 0}
  model.layers.{layer}.mlp.{half}.up.weight:
    to: decoder.layers.{layer}.feedforward.up.weight
    parts: {left: 5, right: =intermediate_size - 5}
"""


def test_several_tensors_hold_parts_of_a_parameter_and_a_rule_depends_on_the_layer(
    llama: Folder, family: Any, tmp_path: Path
) -> None:
    plain, rule = read_folder(llama.path), family(PARTS)

    def renamed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for name, tensor in tensors.items():
            if "up_proj" in name:
                for half, part in (("left", tensor[:5]), ("right", tensor[5:])):
                    found[name.replace("up_proj", f"{half}.up")] = part.clone()
            elif ".0.self_attn" in name:
                swapped = name.replace("q_proj", "?").replace("k_proj", "q_proj").replace("?", "k_proj")
                found[swapped] = tensor
            else:
                found[name] = tensor
        return found

    llama.change(renamed)
    imported = read_folder(llama.path, rule)
    assert all(torch.equal(imported.parameters[name], tensor) for name, tensor in plain.parameters.items())
    before, after = load_file(llama.path / "model.safetensors"), exported(llama.path, rule, tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    other = family(PARTS.replace("left: 5", "left: 9").replace("size - 5", "size - 9"))  # the import takes any lengths
    assert torch.equal(read_folder(llama.path, other).parameters["decoder.layers.0.feedforward.up.weight"],
                       plain.parameters["decoder.layers.0.feedforward.up.weight"])  # fmt: skip
    llama.change(lambda tensors: {name: t for name, t in tensors.items() if "1.mlp.right" not in name})
    assert "the values of {half} are left; expected left to right" in problems(llama.path, rule)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (
            "{to: decoder.norm, parts: {a: 3}}",
            "'to' is one parameter, which lacks an index of the tensor's name",
        ),
        ("{to: decoder.norm, parts: {}}", "'parts' names at least one part"),
        ("{to: decoder.norm, parts: {a: 0}}", "parts must have whole numbers above 0"),
        ("{to: decoder.norm, parts: 3}", "parts must be a mapping of names to lengths"),
        ("[{to: decoder.norm}, {too: decoder.norm}]", "unknown key 'too' in a rule"),
    ],
)
def test_a_wrong_rule_with_parts_is_one_line(rule: str, reason: str, llama: Folder, family: Any) -> None:
    assert reason in problems(llama.path, family(f"tensors: {{model.norm: {rule}}}"))


def test_computed_tensors_are_neither_kept_nor_written(llama: Folder, family: Any, tmp_path: Path) -> None:
    rule = family("computed: [tables.*]")
    plain = load_file(llama.path / "model.safetensors")
    llama.change(lambda tensors: {**tensors, "tables.sin": torch.ones(3)})
    assert not read_folder(llama.path, rule).unused
    assert exported(llama.path, rule, tmp_path / "out").keys() == plain.keys()


def test_tensors_without_a_use_come_back_on_export(llama: Folder, family: Any, tmp_path: Path) -> None:
    rule = family("unused: [pooler.*]")
    llama.change(lambda tensors: {**tensors, "pooler.weight": torch.ones(3), "pooler.steps": torch.arange(4)})
    before, after = load_file(llama.path / "model.safetensors"), exported(llama.path, rule, tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_imported_folder_keeps_the_tensors_without_a_use(llama: Folder, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    llama.change(lambda tensors: {**tensors, name: torch.ones(2)})
    folder = write_folder(read_folder(llama.path), tmp_path / "imported")
    source = read_source(folder)
    assert torch.equal(source.unused[name], torch.ones(2))
    (folder / "unused.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"unused.safetensors: was changed after the import"):
        read_source(folder)


def test_a_null_removes_an_inherited_spelling(llama: Folder, family: Any) -> None:
    llama.change(
        lambda tensors: {name.replace("model.norm.weight", "model.norm.gamma"): t for name, t in tensors.items()}
    )
    assert "decoder.norm.weight" in read_folder(llama.path, family("")).parameters
    rule = family("leaves: {gamma: null}\ntensors: {model.norm.gamma: decoder.norm.weight}")
    assert "decoder.norm.weight" in read_folder(llama.path, rule).parameters
    text = problems(llama.path, family("tensors: {model.norm.gamma: decoder.norm.weight}"))
    assert "mine.yaml:3: tensors.model.norm.gamma: 'leaves' respells gamma as weight" in text
    assert "`leaves: {gamma: null}`" in text


def test_two_spellings_of_one_tensor_are_an_error(llama: Folder) -> None:
    llama.change(lambda tensors: {**tensors, "model.norm.gamma": tensors["model.norm.weight"]})
    with pytest.raises(HuggingFaceError, match=r"is another spelling of model.norm.gamma"):
        read_folder(llama.path)


def test_a_rule_wins_over_unused_whatever_the_order(llama: Folder, family: Any) -> None:
    assert "decoder.norm.weight" in read_folder(llama.path, family("unused: ['model.*']")).parameters


def test_the_rule_of_a_family_wins_over_a_longer_inherited_one(llama: Folder, family: Any, tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text("extends: llama\ntensors: {model.final.norm: decoder.norm.weight}")
    (tmp_path / "mine.yaml").write_text(HEAD.replace("llama\n", "base\n", 1) + "tensors: {model.last: decoder.norm}")
    imported = read_folder(llama.path)
    out = export_folder(imported.recipe, imported.parameters, tmp_path / "out", load_family(tmp_path / "mine.yaml"))
    assert "model.last.weight" in load_file(out / "model.safetensors")


def test_a_tensor_of_another_shape_is_one_problem(llama: Folder) -> None:
    llama.change(lambda tensors: {**tensors, "model.norm.weight": torch.ones(17)})
    with pytest.raises(HuggingFaceError) as caught:
        read_folder(llama.path)
    assert str(caught.value) == f"{llama.path}: model.norm.weight: has shape (17,); expected (16,)"


def test_a_typo_in_a_parameter_is_named_with_the_nearest(llama: Folder, family: Any) -> None:
    text = problems(llama.path, family("tensors: {model.norm: decoder.nrom}"))
    assert "model.norm.weight: is decoder.nrom.weight by the rule at" in text
    assert "mine.yaml:3, but the model has no such parameter; did you mean 'decoder.norm.weight'?" in text


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{to: decoder.norm, reshape: [7, 13]}", "cannot be [7, 13]: its parameters have 16 elements"),
        ("{to: decoder.norm, reshape: [-1, -1]}", "reshape must have whole numbers above 0"),
        ("{to: decoder.norm, groups: 0}", "groups must be at least 1"),
        ("{to: decoder.norm, transpose: true, rearrange: d}", "'d' is not of the form"),
        ("{to: decoder.norm, sizes: {d: 3}}", "sizes are those of the axes in 'rearrange'"),
        ("{to: decoder.norm, reshape: [16], rearrange: d -> d}", "reshape and rearrange cannot be combined"),
        ("{constant: 1.0}", "'shape' is missing"),
        ("{constant: 1.0, shape: [3], transpose: true}", "transpose has no effect"),
        ("{to: [decoder.norm, 3]}", "to must be a parameter or a list of parameters"),
    ],
)
def test_a_wrong_rule_is_an_error(rule: str, message: str, llama: Folder, family: Any) -> None:
    assert message in problems(llama.path, family(f"tensors: {{model.norm: {rule}}}"))


def test_experts_that_are_fused_one_by_one_come_back(tmp_path: Path) -> None:
    from blockformer.huggingface.name_pattern import NamePattern
    from blockformer.huggingface.tensor_conversion import parameters_from_tensors, tensors_from_parameters
    from blockformer.huggingface.tensor_layout import Layout
    from blockformer.huggingface.tensor_names import TensorNames
    from blockformer.huggingface.tensor_rules import TensorRule
    from registry import Mark

    targets = (NamePattern("gate"), NamePattern("up"))
    rule = TensorRule(NamePattern("experts.{expert}.w"), targets, Layout(), None, Mark("mine.yaml"))
    parameters = {"gate": torch.randn(3, 4, 5), "up": torch.randn(3, 4, 5)}
    tensors = tensors_from_parameters([rule], parameters)
    assert tensors["experts.1.w"].shape == (8, 5)
    shapes = {name: tuple(tensor.shape) for name, tensor in parameters.items()}
    result = parameters_from_tensors([rule], TensorNames({}, [], [], {}, []), tensors, shapes)
    assert not result.problems
    assert all(torch.equal(result.parameters[name], tensor) for name, tensor in parameters.items())


def test_a_rule_that_needs_a_parameter_which_the_model_lacks_writes_none(
    llama: Folder, family: Any, tmp_path: Path
) -> None:
    both = '["decoder.layers.{layer}.mixer.q", "decoder.layers.{layer}.mixer.none"]'
    rule = load_family(family(f"tensors: {{'model.layers.{{layer}}.both': {{to: {both}}}}}"))
    imported = read_folder(llama.path)
    out = export_folder(imported.recipe, imported.parameters, tmp_path / "out", rule)
    assert load_file(out / "model.safetensors").keys() == load_file(llama.path / "model.safetensors").keys()
    text = (
        f"tensors: {{'model.layers.{{layer}}.both': {{to: {both}}}, 'model.layers.{{layer}}.self_attn.q_proj': null}}"
    )
    with pytest.raises(HuggingFaceError, match=r"mine.yaml:3 needs decoder.layers.0.mixer.none.weight too"):
        export_folder(imported.recipe, imported.parameters, tmp_path / "no", load_family(family(text)))
