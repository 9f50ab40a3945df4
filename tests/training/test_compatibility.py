"""Data, trainer and model that do not fit each other are refused before training."""

from dataclasses import dataclass
from typing import Any

import pytest

import blockformer as bf
from blockformer.training.compatibility import (
    MismatchError,
    check_data,
    check_device,
    check_precision,
    remarks_on_data,
)
from registry import load_recipe


@dataclass
class Data:
    """The part of a data module that is checked."""

    objective: str
    vocab_size: int = 259
    length: int = 16
    separate_documents: bool = True

    def configure(self, *, objective: str) -> None:
        self.objective = self.objective or objective


def fitted(data: Data, name: str, *overrides: str) -> Any:
    model = bf.check(load_recipe(name, overrides))
    check_data(data, model, data.objective)
    return model


def test_padding_for_a_mixer_that_takes_none() -> None:
    with pytest.raises(
        MismatchError, match=r"padded for masked_lm.* mixer 'fourier' at encoder.layer.mixer \(choose at"
    ):
        fitted(Data("masked_lm"), "tiny_encoder", "encoder.layer.mixer=fourier")
    fitted(Data("masked_lm"), "tiny_encoder")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (Data("causal_lm", vocab_size=5000), ["5000 token ids", "--recipe.vocab_size 5000"]),
        (Data("causal_lm", length=4096), ["data.length 4096", "max_length"]),
        (Data("masked_lm"), ["data.objective is masked_lm"]),
    ],
)
def test_sizes_that_do_not_fit(data: Data, words: list[str]) -> None:
    with pytest.raises(MismatchError) as caught:
        check_data(data, bf.check(load_recipe("tiny_decoder")), "causal_lm")
    assert all(word in str(caught.value) for word in words)


def test_bfloat16_for_blocks_that_can_and_that_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    from blocks.attention.softmax import MultiHeadAttention
    from registry import Capabilities

    model = bf.check(load_recipe("tiny_decoder"))
    check_precision("bf16-mixed", model)
    monkeypatch.setattr(MultiHeadAttention, "capabilities", Capabilities(bfloat16=False))
    check_precision("32-true", model)
    with pytest.raises(MismatchError, match=r"mixer 'attention' at decoder.layer.mixer"):
        check_precision("bf16-mixed", model)


def test_what_is_never_trained_is_remarked() -> None:
    model = bf.check(load_recipe("tiny_decoder", ["embedding.positions=learned", "vocab_size=300"]))
    found = "\n".join(remarks_on_data(Data("causal_lm", length=8), model))
    assert "41 of 300 token ids are unused" in found
    assert (
        f"positions from 8 on are not trained, because data.length is 8 and max_length is {model.max_length}" in found
    )
    exact = bf.check(load_recipe("tiny_decoder", ["vocab_size=259"]))
    assert not list(remarks_on_data(Data("causal_lm", length=8), exact))


def test_a_backend_without_gradients_on_a_cpu() -> None:
    model = bf.check(load_recipe("tiny_decoder", ["decoder.layer.mixer.backend=flex"]))
    with pytest.raises(
        MismatchError, match=r"flex has no gradients on a CPU: set auto.* at decoder.layer.mixer.backend"
    ):
        check_device("cpu", model)
    check_device("cuda", model)
    check_device("cpu", bf.check(load_recipe("tiny_decoder")))
