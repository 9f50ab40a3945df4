"""What a family makes of a config, the export undoes without a section of its own."""

from pathlib import Path
from typing import Any

import pytest

from blockformer.huggingface import HuggingFaceError, config_of, load_family
from blockformer.huggingface.config import Config
from blockformer.huggingface.importer import recipe_from_config
from blockformer.huggingface.template import TemplateContext

HEAD = "extends: llama\nmatch: {model_type: mine, architectures: Mine}\n"
CONFIG = {
    "model_type": "mine",
    "architectures": ["Mine"],
    "hidden_size": 16,
    "vocab_size": 23,
    "max_position_embeddings": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
}


def round_trip(folder: Path, text: str, **keys: Any) -> dict[str, Any]:
    """The exported config of the recipe that a family makes of a config."""
    path = folder / "mine.yaml"
    path.write_text(HEAD + text)
    family = load_family(path)

    def recipe(config: dict[str, Any]) -> Any:
        return recipe_from_config(TemplateContext(family, Config(config), {"tensors": frozenset[str]()}))

    before = recipe(CONFIG | keys)
    config = config_of(before, family)
    assert recipe(config).hash == before.hash
    return config


KINDS = """
fixed: {layer_types.*: [full_attention, sliding_attention]}
defaults: {sliding_window: 7}
let:
  local: =layer_types[layer] == "sliding_attention" if layer_types else layer % 2 == 0
  window: =sliding_window if local else None
"""


@pytest.mark.parametrize("local", [[0, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 1]])
def test_a_list_with_an_item_for_each_layer_is_found(local: list[int], tmp_path: Path) -> None:
    kinds = ["sliding_attention" if one else "full_attention" for one in local]
    assert round_trip(tmp_path, KINDS, layer_types=kinds, sliding_window=5)["layer_types"] == kinds


def test_a_list_in_a_table_is_found(tmp_path: Path) -> None:
    text = "defaults: {widths: null}\nlet: {window: {switch: '=widths[layer]', cases: {near: 3, far: 9, all: null}}}"
    widths = ["far", "all", "near"]
    assert round_trip(tmp_path, text, widths=widths)["widths"] == widths


@pytest.mark.parametrize("widths", [[8, 24, 40], 24])
def test_a_key_that_is_one_value_or_a_list_is_found(widths: Any, tmp_path: Path) -> None:
    text = "let: {feedforward: {hidden: '=at(intermediate_size, layer)'}}"
    assert round_trip(tmp_path, text, intermediate_size=widths)["intermediate_size"] == widths


def test_get_is_solved_beside_an_index_of_the_same_mapping(tmp_path: Path) -> None:
    text = """
let:
  mixer: {window: '=get(attention, "window")', softcap: '=attention["softcap"]', scale: '=get(attention, "scale")'}
  rope: '={"rope_theta": attention["theta"], "partial_rotary_factor": 1.0}'
"""
    attention = {"window": 5, "softcap": 3.0, "theta": 90.0}
    assert round_trip(tmp_path, text, attention=attention)["attention"] == attention


ROPES = (
    KINDS
    + """
  rope: '={"partial_rotary_factor": 1.0, **rope_parameters["sliding_attention" if local else "full_attention"]}'
"""
)


def test_rotary_settings_of_each_kind_of_layer_are_found(tmp_path: Path) -> None:
    ropes = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 90.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 900.0, "factor": 3.0},
    }
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    config = round_trip(tmp_path, ROPES, rope_parameters=ropes, layer_types=kinds)
    assert config["rope_parameters"]["full_attention"] == ropes["full_attention"]
    assert config["rope_parameters"]["sliding_attention"]["rope_theta"] == 90.0


def test_a_condition_that_one_part_settles_says_nothing_of_the_others(tmp_path: Path) -> None:
    text = KINDS + "  mixer: {bias: {if: not local and layer > 0, then: true, else: false}}\n"
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    assert round_trip(tmp_path, text, layer_types=kinds)["layer_types"] == kinds


def test_joined_text_is_taken_apart(tmp_path: Path) -> None:
    text = """
let: {feedforward: {activation: '="gelu" + variant'}}
defaults: {variant: ""}
"""
    assert round_trip(tmp_path, text, variant="_tanh")["variant"] == "_tanh"


def test_a_key_without_an_inverse_is_named_with_the_remedy(tmp_path: Path) -> None:
    text = "let: {feedforward: {hidden: '=int(width * 8 / 3)'}}"
    with pytest.raises(HuggingFaceError) as caught:
        round_trip(tmp_path, text, width=9)
    place, message = str(caught.value).split(": ", 1)
    assert place == str(tmp_path / "mine.yaml")
    assert message == (
        "the export cannot find width from `int(width * 8 / 3)`; add its inverse to the section 'export', such as "
        "`width: =recipe[...]`"
    )
    inverse = '\nexport: {width: \'=layers[0]["feedforward"]["hidden"] * 3 // 8\'}'
    assert round_trip(tmp_path, text + inverse, width=9)["width"] == 9


def test_an_expression_is_not_exported_as_text(tmp_path: Path) -> None:
    text = """
defaults: {hidden_act: silu, gate: =hidden_act}
fixed: {doubled: =2 * hidden_size}
let: {feedforward: {activation: =activation(gate)}}
"""
    config = round_trip(tmp_path, text, gate="gelu", doubled=32)
    assert (config["gate"], config["doubled"]) == ("gelu", 32)
    assert not [key for key, value in config.items() if isinstance(value, str) and value.startswith("=")]
