from pathlib import Path

import pytest

from blockformer.huggingface import HuggingFaceError, export_folder, families, load_family, read_folder
from blockformer.huggingface.family import builtin_families, family_of
from registry import RecipeError
from tests.huggingface.conftest import Folder


def family(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def problems(path: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        load_family(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipee: {}", "mine.yaml:1: recipee: unknown section; did you mean 'recipe'?"),
        ("about: x\nlet: [1]", "mine.yaml:2: let: must be a mapping"),
        (
            "recipe:\n  dim: =hidden size",
            "mine.yaml:2: recipe.dim: 'hidden size' is not a valid expression: invalid syntax",
        ),
        ("recipe:\n  dim: =a.b", "mine.yaml:2: recipe.dim: 'a.b' uses Attribute, which expressions do not allow"),
        ("recipe:\n  dim: =maxx(a)", "mine.yaml:2: recipe.dim: unknown function 'maxx'; did you mean 'max'?"),
        (
            "tensors:\n  a: {to: b, where: maxx(a)}",
            "mine.yaml:2: tensors.a.where: unknown function 'maxx'; did you mean 'max'?",
        ),
        ("require:\n  a ==: why", "mine.yaml:2: require: 'a ==' is not a valid expression"),
        ("let:\n  a-b: 1", "mine.yaml:2: let: 'a-b' is neither a name nor name(parameter, ...)"),
        ("extends: lama", "mine.yaml:1: extends: unknown family 'lama'; did you mean 'llama'?"),
        ("extends: mine", "mine.yaml:1: extends: circular reference: mine.yaml -> mine.yaml"),
        ("recipe: {a: 1, a: 2}", "mine.yaml:1: key 'a' is given twice"),
    ],
)
def test_a_mistake_in_a_family_file_is_reported_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    assert message in problems(family(tmp_path, text))


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    text = "recipe:\n  dim: =a.b\n  depth: =c.d"
    assert len(problems(family(tmp_path, text)).splitlines()) == 2


def test_every_installed_family_is_valid_and_has_a_description() -> None:
    for known in families():
        assert known.about, known.name
        assert known.tree.get("source"), known.name
        assert known.architectures, known.name


def test_no_two_families_support_the_same_architecture() -> None:
    read = [(model, name) for known in families() for model in known.model_types for name in known.architectures]
    assert len(read) == len(set(read))


def test_a_family_file_can_extend_an_installed_family(llama: Folder, tmp_path: Path) -> None:
    llama.configure(model_type="mine", architectures=["MineForCausalLM"], window_width=5)
    text = """
extends: llama
about: Llama with a window
match: {model_type: mine, architectures: MineForCausalLM}
let: {window: =window_width}
"""
    imported = read_folder(llama.path, family(tmp_path, text))
    assert imported.recipe.dump()["decoder"]["layer"]["mixer"]["window"] == 5


def test_a_family_file_can_extend_one_in_the_same_folder(llama: Folder, tmp_path: Path) -> None:
    family(tmp_path, "extends: llama\nlet: {window: =window_width}", "theirs")
    text = "extends: theirs\nmatch: {model_type: mine, architectures: M}\ndefaults: {window_width: 7}"
    llama.configure(model_type="mine", architectures=["M"])
    imported = read_folder(llama.path, family(tmp_path, text))
    assert imported.recipe.dump()["decoder"]["layer"]["mixer"]["window"] == 7


def test_layers_that_differ_get_names_and_a_pattern(llama: Folder, tmp_path: Path) -> None:
    text = """
extends: llama
match: {model_type: llama, architectures: LlamaForCausalLM}
let:
  window: =4 if layer % 2 == 0 else None
  kind: ="local" if layer % 2 == 0 else "global"
"""
    stack = read_folder(llama.path, family(tmp_path, text)).recipe.dump()["decoder"]
    assert stack["pattern"] == ["local", "global"]
    assert [stack["layers"][name]["mixer"]["window"] for name in stack["pattern"]] == [4, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: {head: {type: ownn}}", "mine.yaml:3: recipe.head: no head is called \"ownn\"; did you mean 'own'?"),
        ("let: {window: '=[1, 2][layer + 5]'}", "mine.yaml:3: let.window: '[1, 2][layer + 5]' cannot be evaluated"),
        (
            "tensors: {model.norm: {to: decoder.norm, transposed: true}}",
            "unknown key 'transposed' in a rule; did you mean 'transpose'?",
        ),
        ("tensors: {model.norm: {groups: 2}}", "'to' is missing: name the parameters that the tensor holds"),
        ("tensors: {model.norm: 'decoder.{where}.norm'}", "model.norm.weight: is decoder.{where}.norm by the rule at"),
        ("fixed: {rms_norm_eps: 0.5}", "rms_norm_eps: is 1e-06; family 'mine' supports only 0.5"),
        (
            "require: {num_hidden_layers > 2: too shallow}",
            "config.json: too shallow (num_hidden_layers > 2 does not hold)",
        ),
        (
            "let: {norm: {switch: =rms_norm_eps, cases: {a: b}}}",
            "no case for 1e-06, the value of rms_norm_eps in the config; known cases: a",
        ),
    ],
)
def test_a_mistake_that_depends_on_the_config_is_reported_with_its_line(
    llama: Folder, tmp_path: Path, text: str, message: str
) -> None:
    path = family(tmp_path, f"extends: llama\nmatch: {{model_type: llama, architectures: LlamaForCausalLM}}\n{text}")
    with pytest.raises(HuggingFaceError) as caught:
        read_folder(llama.path, path)
    assert message in str(caught.value)


def test_an_unknown_model_type_is_reported_with_the_nearest_names(tmp_path: Path) -> None:
    with pytest.raises(HuggingFaceError) as caught:
        family_of({"model_type": "qwen5"}, tmp_path / "config.json")
    message = (
        "no family supports model_type 'qwen5'; nearest: qwen3, qwen2, qwen3_moe; to add one, see docs/add-a-family.md"
    )
    assert str(caught.value) == f"{tmp_path}/config.json: {message}"


def test_another_architecture_of_a_known_model_type_is_rejected(tmp_path: Path) -> None:
    config = {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}
    with pytest.raises(HuggingFaceError) as caught:
        family_of(config, tmp_path / "config.json")
    assert (
        "architecture LlamaForSequenceClassification is not supported; model_type 'llama' supports LlamaForCausalLM"
        in str(caught.value)
    )


BIDIRECTIONAL = """
extends: llama
match: {model_type: llama, architectures: LlamaForCausalLM}
let: {stack: encoder}
recipe: {type: encoder_only, inherit: true}
"""


def test_the_same_model_but_bidirectional_takes_two_lines(llama: Folder, tmp_path: Path) -> None:
    imported = read_folder(llama.path, family(tmp_path, BIDIRECTIONAL))
    recipe = imported.recipe.dump()
    assert recipe["type"] == "encoder_only"
    assert recipe["encoder"]["layer"]["mixer"]["kv_heads"] == 2
    out = export_folder(imported.recipe, imported.parameters, tmp_path / "out", imported.family)
    assert read_folder(out, imported.family.path).recipe.hash == imported.recipe.hash


def test_a_child_may_write_the_name_of_the_stack_itself(llama: Folder, tmp_path: Path) -> None:
    text = BIDIRECTIONAL.replace("inherit: true}", "inherit: true, encoder: {norm: none}}")
    path = family(tmp_path, text + "unused: [model.norm.*]")
    assert read_folder(llama.path, path).recipe.dump()["encoder"]["norm"]["type"] == "none"


def test_a_block_of_another_type_may_keep_the_inherited_keys(tmp_path: Path) -> None:
    family(tmp_path, "let: {mixer: {type: attention, heads: 4}}", "base")
    kept = load_family(family(tmp_path, "extends: base\nlet: {mixer: {type: differential, inherit: true}}"))
    assert kept.section("let")["mixer"] == {"type": "differential", "heads": 4}
    afresh = load_family(family(tmp_path, "extends: base\nlet: {mixer: {type: differential}}"))
    assert afresh.section("let")["mixer"] == {"type": "differential"}


def test_text_is_joined(llama: Folder, tmp_path: Path) -> None:
    text = HEAD + "let: {part: ='model.' + 'norm'}\ntensors: {'{part}': decoder.norm}"
    assert "decoder.norm.weight" in read_folder(llama.path, family(tmp_path, text)).parameters


HEAD = "extends: llama\nmatch: {model_type: llama, architectures: LlamaForCausalLM}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("let: {window: =a, a: =b, b: =a}", "let.b: a -> b -> a is a circle"),
        ("defaults: {x: =y, y: =x}\nlet: {window: =x}", "defaults.y: x -> y -> x is a circle"),
        ("let: {window: =window}", "the config has no key 'window', and the family has no default for it"),
    ],
)
def test_a_circle_is_named(text: str, message: str, llama: Folder, tmp_path: Path) -> None:
    with pytest.raises(HuggingFaceError) as caught:
        read_folder(llama.path, family(tmp_path, HEAD + text))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "let: {window: =layer_types[layer]}",
        "let: {local: =f(a, b)}",
        "tensors:\n  {base}norm: decoder.norm",
        "tensors: {model.norm: {to: decoder.layers.{layer}.norm}}",
        "recipe:\n  dim: =max([a # comment",
    ],
)
def test_text_without_quotes_is_explained(text: str, tmp_path: Path) -> None:
    assert "quote" in problems(family(tmp_path, text))


def test_a_family_without_a_match_is_explained(llama: Folder, tmp_path: Path) -> None:
    with pytest.raises(HuggingFaceError) as caught:
        read_folder(llama.path, family(tmp_path, "extends: llama"))
    message = (
        "family 'mine' has no section 'match', which is not inherited; add `match: {model_type: llama, architectures: "
    )
    assert str(caught.value) == f"{tmp_path}/mine.yaml: {message}LlamaForCausalLM}}`"


def test_the_nearest_families_are_those_with_the_same_keys(llama: Folder) -> None:
    llama.configure(model_type="gpt3", architectures=["Gpt3"])
    with pytest.raises(HuggingFaceError, match=r"no family supports model_type 'gpt3'; nearest: .*llama"):
        read_folder(llama.path)


def test_a_kind_of_layer_that_a_family_does_not_have_is_an_error(llama: Folder) -> None:
    folder = llama.configure(
        model_type="qwen2", architectures=["Qwen2ForCausalLM"], layer_types=["chunked", "full_attention"]
    )
    with pytest.raises(
        HuggingFaceError, match=r"layer_types.0: is chunked; family 'qwen2' supports only full_attention or"
    ):
        read_folder(folder)


@pytest.mark.parametrize("name", builtin_families())
def test_a_key_that_may_have_any_value_and_is_read_has_a_default(name: str) -> None:
    """Or neither a config that omits it nor the export would have a value for it."""
    known = load_family(name)
    read = [key for key, value in known.section("fixed").items() if value == "*" and key in known.mentioned]
    assert [key for key in read if not known.has_default(key)] == []
