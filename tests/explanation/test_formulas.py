"""Formulas have the numbers of a model and the names of its blocks, and say no more than the model computes."""

import re
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import blockformer as bf
from blockformer.conformance.block_case import BlockCase
from blockformer.explanation import explain
from blockformer.explanation.formulas import formula_of, name_of
from blockformer.reference.small_recipe import small_recipe
from blocks.base import Component, Intermediate, Site
from blocks.feedforward.mlp import MLP
from blocks.positions.sinusoidal import SinusoidalPositions
from registry import Entry, entries, entry_of, load_recipe, slots

FUNCTIONS = {
    "silu",
    "sgn",
    "exp",
    "log",
    "ln",
    "floor",
    "max",
    "min",
    "mean",
    "softmax",
    "sqrt",
    "sin",
    "cos",
    "sigmoid",
    "tanh",
    "relu",
}
SYMBOLS = {"f", "span", "mixer_m", "expert_e", "w_e", "out_e", "chosen", "Phi", "Re", "σ", "F_time", "F_width"}
"""Functions of mathematics with letters of their own, a sublayer, and a part of an expert."""
WORD = re.compile(r"""(?<![\w"])([^\W\d]\w*[^\W_])['′]*\(""")
OURS = [entry for slot in slots() for entry in entries(slot).values() if entry.block.__module__.startswith("blocks.")]
ALTERNATIVES = {
    "activation": ("gelu_tanh", "relu2", "softplus"),
    "norm": ("layer", "scale", "dynamic_tanh"),
    "attention_positions": ("rotary",),
}


def raw(block: Component) -> str:
    """All formulas of a block as they are written, one in a line."""
    return "\n".join([block.formula, *(value.formula for value in block.intermediates.values())])


def projections(block: Component) -> set[str]:
    return {name for name, part in block.named_modules() if not isinstance(part, Component)} | {
        name.removesuffix("_weight") for name, _ in block.named_parameters()
    }


@pytest.mark.parametrize("entry", OURS, ids=lambda entry: f"{entry.slot}/{entry.name}")
def test_no_formula_of_a_page_names_a_function_that_the_model_does_not_have(entry: Entry) -> None:
    tree: dict[str, Any] = yaml.safe_load(small_recipe(entry.slot, entry.name)) | {"vocab_size": 260}
    model = bf.build(load_recipe(tree))
    parts = dict(model.named_modules())
    explanation = explain(model, "cat", source="Katze" if model.kind == "encoder_decoder" else None)
    assert sum(bool(step.formula) for step in explanation.steps) > 10
    for step in explanation.steps:
        block = parts[step.path]
        assert isinstance(block, Component)
        inside = {name_of(part) for _, part in block.components()}
        unknown = set(WORD.findall(step.formula)) - FUNCTIONS - SYMBOLS - inside - projections(block)
        assert not unknown, (step.label, step.formula)


@pytest.mark.parametrize("slot", ALTERNATIVES)
def test_a_function_in_a_formula_is_the_block_that_was_chosen(slot: str) -> None:
    found = 0
    for entry in OURS:
        takes = [name for name, one in entry.parameters.items() if (one.slot, one.arity) == (slot, "one")]
        for parameter, name in ((parameter, name) for parameter in takes for name in ALTERNATIVES[slot]):
            block = built(entry, {parameter: name})
            chosen = [word for word, one in vars(block)["_modules"].items() if is_block(one, slot, name)]
            for word in set(chosen) & set(WORD.findall(raw(block))):
                for value in (None, *block.intermediates.values()):
                    if word in WORD.findall(block.formula if value is None else value.formula):
                        shown = WORD.findall(formula_of(block, value))
                        assert name_of(getattr(block, word)) in shown, (entry.name, parameter, name)
                        assert word not in shown
                        found += 1
    assert found >= {"activation": 30, "norm": 40, "attention_positions": 2}[slot]


def built(entry: Entry, parameters: dict[str, Any]) -> Component:
    """The block of a case, at the first place that it fits."""
    places = [place for place in ("causal", "bidirectional", "cross") if place in entry.block.capabilities.places]
    return BlockCase(entry.slot, entry.name, parameters, places[0]).construct()  # pyright: ignore[reportArgumentType]


def is_block(part: object, slot: str, name: str) -> bool:
    return isinstance(part, Component) and part.slot.name == slot and entry_of(type(part)).name == name


def formulas(changes: dict[str, Any], recipe: str = "tiny_decoder") -> dict[str, str]:
    """The formulas of the first layer's blocks, by the block and the value."""
    return {
        f"{step.path.removeprefix('decoder.layers.0.')}.{step.name}": step.formula
        for step in explain(bf.build(recipe, changes), "cat").steps
    }


def test_queries_and_keys_are_written_as_they_are_placed() -> None:
    mixer = {"type": "attention", "heads": 4, "positions": "rotary", "qk_norm": "rms", "clip": 8.0, "v_norm": "layer"}
    found = formulas({"decoder.layer.mixer": mixer | {"value_scale": 2.0, "temperature": 0.1, "temperature_step": 50}})
    assert found["mixer.placed_q"] == "Q' = (1 + 0.1 ln(1 + floor((t + 1) / 50))) rotary(clip_8(RMSNorm(Q)))"
    assert found["mixer.placed_k"] == "K' = rotary(clip_8(RMSNorm(K)))"
    assert found["mixer.placed_v"] == "V' = 2 * clip_8(LayerNorm(V))"
    after = formulas({"decoder.layer.mixer": mixer | {"qk_norm_after": True}})
    assert after["mixer.placed_q"] == "Q' = RMSNorm(rotary(clip_8(Q)))"
    alibi = formulas({"decoder.layer.mixer": mixer | {"positions": "alibi", "clip": None}})
    assert alibi["mixer.placed_k"] == "K' = RMSNorm(K)"


def test_outputs_of_heads_have_the_norm_and_gate_of_the_model() -> None:
    mixer = {"type": "attention", "heads": 4}
    both = formulas({"decoder.layer.mixer": mixer | {"out_norm": "rms", "gate": "sigmoid"}})
    assert both["mixer.normed"] == "Y' = RMSNorm(Y)"
    assert both["mixer.gated"] == "Y' * sigmoid(X W_gate)"
    gated = formulas({"decoder.layer.mixer": mixer | {"gate": "silu"}})
    assert gated["mixer.gated"] == "Y * silu(X W_gate)"
    assert "mixer.normed" not in gated


def test_an_activation_that_its_block_explains_is_defined_there() -> None:
    mlp = {"type": "mlp", "activation": "gelu", "inner_norm": "rms"}
    found = formulas({"decoder.layer.feedforward": mlp})
    assert found["feedforward.activated"] == "A = gelu(H); gelu(x) = x Phi(x)"
    assert found["feedforward.output"] == "RMSNorm(A) W_down + b_down"
    linear = formulas({"decoder.layer.feedforward": {"type": "mlp", "activation": "identity"}})
    assert linear["feedforward.output"] == "H W_down + b_down"


def test_what_returns_its_input_is_left_out() -> None:
    found = formulas({"decoder.layer.residual": {"type": "pre", "norm": "none"}, "head": {"type": "own"}})
    assert found["mixer_residual.output"] == "x + f(x)"
    assert found["head.output"] == "L = x W"
    parallel = formulas({"decoder.layer": {"type": "parallel", "mixer": "attention", "feedforward": "none"}})
    assert parallel["decoder.layers.0.output"] == "y = x + attention(LayerNorm(x))"


def test_the_function_of_a_router_is_that_of_its_scores() -> None:
    for scores, formula in {"softmax": "P = softmax(L)", "sigmoid": "P = sigmoid(L)", "logits": "P = L"}.items():
        moe = {"type": "moe", "router": {"type": "top_k", "scores": scores, "weights": "softmax", "logit_scale": 2.0}}
        found = formulas({"decoder.layer.feedforward": moe})
        assert found["feedforward.router.logits"] == "L = 2 * x W"
        assert found.get("feedforward.router.scores", "P = L") == formula


def test_the_formula_of_a_class_has_the_numbers_of_the_block() -> None:
    swish = formulas({"decoder.layer.feedforward": {"type": "mlp", "activation": {"type": "swish", "beta": 1.5}}})
    assert swish["feedforward.activated"] == "A = swish(H); swish(x) = x / (1 + exp(-1.5 x))"
    scaled = {"type": "scaled", "by": 0.5, "inner": "attention"}
    assert formulas({"decoder.layer.mixer": scaled})["mixer.output"] == "y = 0.5 * attention(x)"
    relative = formulas({"decoder.layer.mixer": {"type": "relative", "heads": 4}})["mixer.output"]
    assert relative.startswith("A_h = softmax(1/sqrt(8) * ((q_h + u_h) k_h^T + ")
    sparse = BlockCase("mixer", "block_sparse", {}, "bidirectional").construct()
    assert '"over the blocks in sight"' in formula_of(sparse)


def test_the_formula_of_an_embedding_says_what_is_joined_added_and_projected() -> None:
    embedding: dict[str, Any] = {"width": 16, "norm": "layer", "positions": "learned", "segments": 2}
    found = formulas({"embedding": embedding, "head": "own"})
    assert found["embedding.vectors"] == "x = E_(id)"
    assert found["embedding.output"] == "LayerNorm(learned(x) + S_(segment)) W + b"
    found = formulas({"embedding": embedding | {"norm_first": True, "scale": "sqrt_dim"}, "head": "own"})
    assert found["embedding.vectors"] == "x = E_(id) * 4"
    assert found["embedding.output"] == "(learned(LayerNorm(x)) + S_(segment)) W + b"
    joined = {"neighbors": 1, "features": {"shape": 5, "sound": 6}, "feature_widths": {"shape": 8}, "scale": 3.0}
    found = formulas({"embedding": {"positions": "none"} | joined, "head": "own"}, "tiny_encoder")
    assert found["embedding.vectors"] == "x = [z_(t+1), z_t, z_(t-1), F_(shape)] W + b; z_t = E_(id_t) * 3"
    assert found["embedding.output"] == "x + F_(sound)"


def test_the_vectors_of_an_embedding_are_those_of_its_formula() -> None:
    recipe = {"embedding": {"width": 16, "norm": "layer", "norm_first": True, "scale": "sqrt_dim"}, "head": "own"}
    model = bf.build("tiny_decoder", recipe)
    explanation, embedding = explain(model, "cat"), model.get_submodule("embedding")
    ids = torch.tensor([token.id for token in explanation.texts[0]])
    vectors = embedding.table[ids] * 4  # pyright: ignore[reportIndexIssue]
    assert torch.equal(explanation.value("embedding", "vectors"), vectors)
    assert torch.equal(explanation.value("embedding.norm"), embedding.norm(vectors))  # pyright: ignore[reportCallIssue]


def test_a_scale_multiplies_the_bias_of_a_projection_too() -> None:
    glu = {"type": "glu", "gate_scale": 2.0}
    assert formulas({"decoder.layer.feedforward": glu})["feedforward.gate_input"] == "G = 2 * X W_gate"
    biased = formulas({"decoder.layer.feedforward": glu | {"bias": True, "limit": 3.0}})
    assert biased["feedforward.gate_input"] == "G = limit_3(2 * (X W_gate + b_gate))"
    moe = {"type": "moe", "router": {"type": "top_k", "logit_scale": 2.0, "bias": True}}
    assert formulas({"decoder.layer.feedforward": moe})["feedforward.router.logits"] == "L = 2 * (x W + b)"


def test_columns_that_a_head_joins_to_the_table_are_in_its_formula() -> None:
    changes: dict[str, Any] = {"embedding": {"width": 16}, "head": {"type": "tied", "extend": True, "bias": True}}
    assert formulas(changes)["head.output"] == "L = x [E, C]^T + b"
    assert formulas({"head": "tied"})["head.output"] == "L = x E^T"


def test_the_gate_of_a_state_space_stands_where_it_multiplies() -> None:
    ssd = {"type": "ssd", "heads": 4, "state_dim": 8}
    before = formulas({"decoder.layer.mixer": ssd})["mixer.output"]
    assert before == "y_t = out(RMSNorm(r_t ⊙ silu(gate(x_t))))"
    factors = {"gating": "after_norm", "multipliers": [2.0, 1.0, 1.0, 1.0, 1.0]}
    after = formulas({"decoder.layer.mixer": ssd | factors})["mixer.output"]
    assert after == "y_t = out(RMSNorm(r_t) ⊙ silu(2 * gate(x_t)))"


def test_what_a_layer_looks_up_is_a_step() -> None:
    found = formulas({"decoder.layer.lookup": {"type": "ngram", "rows": 16}, "decoder.layer.output_scale": True})
    assert found["decoder.layers.0.looked_up"] == "x + ngram(x)"
    assert found["decoder.layers.0.output"] == "s x"


class Nested(MLP):
    def __init__(self, norm: nn.Module | None) -> None:
        super().__init__(Site(dim=4))
        self.norm = norm


@pytest.mark.parametrize(
    ("formula", "shown"),
    [
        ("y = norm(x)", "y = x"),
        ("y = norm(x + 1)", "y = x + 1"),
        ("y = 2 norm(x + 1)", "y = 2 (x + 1)"),
        ("y = f(norm(x + 1))", "y = f(x + 1)"),
        ("y = norm(x z) + norm(x + 1) - norm(x + 1)", "y = x z + x + 1 - (x + 1)"),
        ("y = f(norm(activation(x)) + norm(x y)^2)", "y = f(relu(x) + (x y)^2)"),
        ("y = norm_1(x); z = norm(x_(t + 1)) x", "y = norm_1(x); z = x_(t + 1) x"),
        ('y = "norm"(x) + anorm(x)', 'y = "norm"(x) + anorm(x)'),
    ],
)
def test_brackets_stay_where_they_are_needed(formula: str, shown: str) -> None:
    assert formula_of(Nested(None), Intermediate("", (), formula)) == shown


@pytest.mark.parametrize("layout", ["interleaved", "halves"])
@pytest.mark.parametrize("spacing", ["paper", "closed"])
@pytest.mark.parametrize("offset", [0, 2])
def test_the_formula_of_sinusoidal_positions_gives_their_values(layout: Any, spacing: Any, offset: int) -> None:
    block = SinusoidalPositions(Site(dim=8), layout=layout, spacing=spacing, offset=offset, theta=100.0)
    sine, cosine, last = formula_of(block, block.intermediates["encoding"]).split("; ")
    expected = block.encode(torch.arange(5)[None])[0]
    found = torch.full_like(expected, torch.nan)
    count = int(last.rpartition(" ")[2]) + 1
    for line, function in ((sine, torch.sin), (cosine, torch.cos)):
        match = re.fullmatch(r"P_\(pos, (.*)\) = (?:sin|cos)\((.*) / 100\^\(i / (\d+)\)\)", line)
        assert match is not None, line
        for i in range(count):
            channel, place = match[1].replace("2i", str(2 * i)).replace("i", str(i)), match[2].strip("()")
            for pos in range(5):
                number = pos + int(place.partition(" + ")[2] or 0)
                found[pos, eval_sum(channel)] = function(torch.tensor(number / 100 ** (i / int(match[3]))))
    torch.testing.assert_close(found, expected)


def eval_sum(text: str) -> int:
    return sum(map(int, text.split("+")))
