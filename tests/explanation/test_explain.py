"""Texts, limits and errors of explanations."""

import pytest
import torch

import blockformer as bf
from blockformer.errors import UserError
from blockformer.explanation import Limits, explain
from blockformer.explanation.comparison import compared
from blockformer.explanation.page import fitted
from blockformer.explanation.sampling import sampled


def test_the_first_and_last_tokens_and_evenly_spaced_channels_are_kept() -> None:
    value = torch.arange(30 * 100.0).view(30, 100)
    found = sampled(value, ("token", "width"), Limits(tokens=12, channels=5))
    assert found.shape == (30, 100)
    assert found.index == ((0, 1, 2, 3, 4, 5, *range(24, 30)), (0, 25, 50, 74, 99))
    assert torch.equal(found.data, value[list(found.index[0])][:, list(found.index[1])])
    assert not found.whole
    assert sampled(value, ("token", "width"), Limits(tokens=30, channels=100)).whole


def test_smaller_limits_keep_the_same_numbers_at_fewer_places() -> None:
    explanation = explain("tiny_local_global", "cat eats fish and the dog sleeps", limits=Limits())
    small = explanation.within(Limits(tokens=6, heads=2, channels=3, vocabulary=4, layers=2))
    assert small.numbers < explanation.numbers / 10
    assert set(small.left_out["decoder"]) == {0, 5}
    assert {step.layer for step in small.steps if step.stack} <= {0, 5, None}
    step, whole = small.find("decoder.layers.0.mixer", "weights"), explanation.find("decoder.layers.0.mixer", "weights")
    rows = [whole.value.index[1].index(at) for at in step.value.index[1]]
    columns = [whole.value.index[2].index(at) for at in step.value.index[2]]
    heads = [whole.value.index[0].index(at) for at in step.value.index[0]]
    assert torch.equal(step.value.data, whole.value.data[heads][:, rows][:, :, columns])


def test_a_page_has_at_most_the_given_number_of_numbers() -> None:
    explanation = explain("tiny_decoder", "cat eats fish, dog eats meat, cow eats grass, what do I eat")
    assert repr(explanation).endswith(f"{len(explanation.steps)} steps>")
    assert fitted(explanation, 10**9) is explanation
    small = fitted(explanation, explanation.numbers // 3)
    assert small.numbers <= explanation.numbers // 3
    assert small.sampled


def test_deep_stacks_are_recorded_at_some_layers_only() -> None:
    explanation = explain("tiny_local_global", "cat", limits=Limits(layers=2))
    assert explanation.left_out == {"decoder": (0, 5)}
    assert {step.layer for step in explanation.steps if step.stack} == {0, 5}


def test_the_scores_of_a_layer_that_reuses_keys_come_from_those_of_the_earlier_layer() -> None:
    own = {"mixer": {"type": "attention", "heads": 4, "positions": "rotary"}}
    layers = {"own": own, "reusing": {"mixer": own["mixer"] | {"reuse_kv": True}, "last_mixer": "per_layer_embedding"}}
    sizes = {"type": "decoder_only", "dim": 32, "vocab_size": 300, "max_length": 32}
    stack = {"depth": 2, "layers": layers, "pattern": ["own", "reusing"]}
    explanation = explain(bf.build({**sizes, "decoder": stack}), "cat")
    scores = explanation.find("decoder.layers.1.mixer", "scores")
    assert scores.formula == "S = Q' K'^T"
    assert scores.of[1] is explanation.find("decoder.layers.0.mixer", "placed_k")
    assert explanation.find("decoder.layers.1.last_mixer").formula == "Y W_out"


def test_two_models_are_compared_by_the_logits_of_the_same_tokens() -> None:
    first, other = explain("tiny_decoder", "cat", seed=1), bf.build("tiny_decoder", seed=2)
    for second in (explain(other, "cat"), explain(other, "cat", beside=first)):
        found = dict(zip((step.label for step in first.steps), compared(first, second).differences, strict=True))
        assert found["head.output"]
        assert found["head.probabilities"]
    logits = other.eval()(torch.tensor([[token.id for token in first.texts[0]]]))[0]
    ids = first.find("head").value.index[1]
    assert second.find("head").value.index[1] == ids
    torch.testing.assert_close(second.value("head"), logits[:, list(ids)])
    tighter = second.within(Limits(tokens=2, vocabulary=4))
    assert dict(zip(found, compared(first, tighter).differences, strict=False))["head.output"]


def test_a_blank_in_the_text_of_an_encoder_is_a_masked_token() -> None:
    explanation = explain("tiny_encoder", "c_t")
    assert [token.text for token in explanation.texts[0]] == ["c", "<mask>", "t"]


def test_an_encoder_decoder_without_training_writes_nothing_and_continues_a_given_target() -> None:
    alone = explain("tiny_encoder_decoder", "cat")
    assert [[token.text for token in text] for text in alone.texts] == [["c", "a", "t", "<eos>"], ["<bos>"]]
    given = explain("tiny_encoder_decoder", "Ka", source="cat")
    assert [token.text for token in given.texts[1]] == ["<bos>", "K", "a"]


@pytest.mark.parametrize(
    ("recipe", "text", "source", "said"),
    [
        ("tiny_decoder", "", None, "the text is empty"),
        ("tiny_decoder", "x" * 64, None, "the text has 65 tokens, but the model's max_length is 64"),
        ("tiny_decoder", "x", "y", "a model of kind decoder_only reads one text"),
        ("tiny_encoder_decoder", "", None, "the text is empty"),
        ("tiny_encoder_decoder", "", "x" * 64, "the text has 65 tokens"),
    ],
)
def test_texts_that_cannot_be_explained_are_refused(recipe: str, text: str, source: str | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        explain(recipe, text, source=source)


def test_a_model_with_fewer_ids_than_bytes_needs_a_tokenizer() -> None:
    with pytest.raises(UserError, match="each byte of the text is a token, which takes 260 ids, but vocab_size is 100"):
        explain(bf.build("tiny_decoder", {"vocab_size": 100}), "x")


def test_the_same_model_has_no_differences_and_a_window_changes_what_it_should() -> None:
    first = explain("tiny_decoder", "cat eats fish")
    assert set(compared(first, explain("tiny_decoder", "cat eats fish")).differences) == {0.0}
    model = bf.build("tiny_decoder", {"decoder.layer.mixer.window": 3})
    found = compared(first, explain(model, "cat eats fish"))
    by_name = {(step.layer, step.name): gap for step, gap in zip(first.steps, found.differences, strict=True)}
    assert by_name[0, "scaled"] == 0.0
    scores = first.value("decoder.layers.0.mixer", "masked")
    seen = scores[:, torch.ones(14, 14).tril().bool()]
    hidden = scores[:, torch.ones(14, 14).tril(-3).bool()]
    assert by_name[0, "masked"] == pytest.approx(float(hidden.norm() / seen.norm()))
    assert by_name[0, "weights"] != 0.0
    other = compared(first, explain("tiny_hybrid", "cat eats fish"))
    assert None in other.differences
    assert None in other.partners


def test_a_model_in_training_is_explained_without_dropout_and_goes_on_training() -> None:
    model = bf.build("tiny_decoder", {"decoder.layer.residual.dropout": 0.5}).train()
    first, again = explain(model, "cat"), explain(model, "cat")
    assert set(compared(first, again).differences) == {0.0}
    assert model.training
    assert all(part.training for part in model.modules())


def test_jupyter_shows_the_page_in_a_frame() -> None:
    shown = explain("tiny_decoder", "cat")._repr_html_() or ""
    assert shown.startswith("<iframe srcdoc=")
    assert "<script" not in shown  # escaped inside the attribute
