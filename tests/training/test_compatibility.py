"""Data, trainer and model that do not fit each other are refused before training."""

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor

import blockformer as bf
from blockformer.data.datasets.base import Form
from blockformer.training.compatibility import (
    MismatchError,
    check_batch,
    check_data,
    check_device,
    check_precision,
    remarks_on_data,
)
from blockformer.training.module import TrainingModule
from blockformer.training.objectives import CausalLM, Objective, SequenceToSequence, objective_for
from blockformer.training.optimizers import OptimizerSettings
from blockformer.training.recipe_argument import RecipeArgument
from registry import load_recipe


@dataclass
class Data:
    """The part of a data module that is checked."""

    vocab_size: int = 259
    length: int = 16
    form: Form = "documents"

    def configure(self, *, objective: Objective) -> None:
        assert self.form in objective.forms


def fitted(data: Data, name: str, *overrides: str) -> Any:
    model = bf.check(load_recipe(name, overrides))
    check_data(data, model, objective_for(model.kind))
    return model


def test_padding_for_a_mixer_that_takes_none() -> None:
    with pytest.raises(
        MismatchError,
        match=r"different lengths are padded.* mixer 'fourier' at encoder.layer.mixer \(choose at",
    ):
        fitted(Data(), "tiny_encoder", "encoder.layer.mixer=fourier")
    fitted(Data(), "tiny_encoder")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (Data(vocab_size=5000), ["5000 token ids", "--recipe.vocab_size 5000"]),
        (Data(length=4096), ["data.length 4096", "max_length"]),
    ],
)
def test_sizes_that_do_not_fit(data: Data, words: list[str]) -> None:
    with pytest.raises(MismatchError) as caught:
        check_data(data, bf.check(load_recipe("tiny_decoder")), CausalLM())
    assert all(word in str(caught.value) for word in words)


def test_rows_longer_than_the_longest_target() -> None:
    with pytest.raises(
        MismatchError, match=r"data.length 16 is more than .* target_max_length 8: .* --recipe.target_max"
    ):
        fitted(Data(form="pairs"), "tiny_encoder_decoder", "target_max_length=8")


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
    found = "\n".join(remarks_on_data(Data(length=8), model))
    assert "41 of 300 token ids are unused" in found
    assert (
        f"positions from 8 on are not trained, because data.length is 8 and max_length is {model.max_length}" in found
    )
    exact = bf.check(load_recipe("tiny_decoder", ["vocab_size=259"]))
    assert not list(remarks_on_data(Data(length=8), exact))


def test_a_backend_without_gradients_on_a_cpu() -> None:
    model = bf.check(load_recipe("tiny_decoder", ["decoder.layer.mixer.backend=flex"]))
    with pytest.raises(
        MismatchError, match=r"flex has no gradients on a CPU: set auto.* at decoder.layer.mixer.backend"
    ):
        check_device("cpu", model)
    check_device("cuda", model)
    check_device("cpu", bf.check(load_recipe("tiny_decoder")))


def ids(*sizes: int, largest: int = 10) -> Tensor:
    return torch.full(sizes, largest)


@pytest.mark.parametrize(
    ("name", "overrides", "batch", "words"),
    [
        (
            "tiny_decoder",
            [],
            {"tokens": ids(2, 8, largest=9999), "targets": ids(2, 8)},
            "tokens .* id 9999",
        ),
        (
            "tiny_decoder",
            [],
            {"tokens": ids(2, 8), "targets": ids(2, 8, largest=9999)},
            "targets .* id 9999",
        ),
        ("tiny_decoder", [], {"tokens": ids(2, 4096), "targets": ids(2, 4096)}, "is 4096 long, .* max_length"),
        (
            "tiny_encoder_decoder",
            ["target_max_length=4"],
            {"source": ids(2, 8), "target": ids(2, 8), "targets": ids(2, 8)},
            "target .* is 8 long, .* target_max_length is 4: .* --recipe.target_max_length",
        ),
        ("tiny_decoder", [], {"tokens": ids(2, 8), "targets": ids(2, 8) * 0 - 2}, "targets .* id -2; .* have -100"),
        ("tiny_decoder", [], {"tokens": ids(2, 8), "targets": ids(2, 7)}, r"targets .* shape \(2, 7\), and \(2, 8\)"),
        (
            "tiny_decoder",
            [],
            {"tokens": ids(2, 8)[0], "targets": ids(2, 8)[0]},
            r"tokens .* shape \(8,\), and \(rows, tok",
        ),
        (
            "tiny_decoder",
            [],
            {"tokens": ids(2, 8).float(), "targets": ids(2, 8)},
            "tokens .* is torch.float32; ids are",
        ),
        ("tiny_decoder", [], {"input_ids": ids(2, 8)}, "tokens and targets to tensors; this one has input_ids"),
        ("tiny_decoder", [], [ids(2, 8)], "tokens and targets to tensors; this one has list"),
        (
            "tiny_encoder",
            ["encoder.layer.mixer=fourier"],
            {"tokens": ids(2, 8), "targets": ids(2, 8), "attention_mask": ids(2, 8, largest=0).bool()},
            "has attention_mask, which is not supported by mixer 'fourier'",
        ),
    ],
)
def test_the_first_batch_of_other_data_is_checked(name: str, overrides: list[str], batch: Any, words: str) -> None:
    model = bf.check(load_recipe(name, overrides))
    with pytest.raises(MismatchError, match=words):
        check_batch(batch, model, objective_for(model.kind))


def test_a_batch_that_fits_is_accepted() -> None:
    model = bf.check(load_recipe("tiny_decoder"))
    check_batch({"tokens": ids(2, 8), "targets": ids(2, 8, largest=-100)}, model, CausalLM())


class OtherData(L.LightningDataModule):
    """A data module that only gives batches."""

    def train_dataloader(self) -> Any:
        """One batch, for each verb the same."""
        batch = {"tokens": ids(2, 8, largest=9999), "targets": ids(2, 8)}
        return torch.utils.data.DataLoader([batch], batch_size=None)  # type: ignore[arg-type]

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_a_data_module_of_the_users_own_is_checked_by_each_verb(verb: str) -> None:
    module = TrainingModule(RecipeArgument(load_recipe("tiny_decoder")), OptimizerSettings())
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(accelerator="cpu", max_steps=1, enable_model_summary=False, **settings)
    with pytest.raises(MismatchError, match=r"tokens of the first batch holds id 9999"):
        getattr(trainer, verb)(module, datamodule=OtherData())


def test_sources_are_checked_against_their_own_vocabulary() -> None:
    overrides = ["source_vocab_size=600", "share_tokens=false"]
    model = bf.check(bf.load_recipe("tiny_encoder_decoder", overrides))
    target = torch.zeros(2, 4, dtype=torch.long)
    check_batch({"source": target + 599, "target": target, "targets": target - 100}, model, SequenceToSequence())
    with pytest.raises(
        MismatchError, match=r"source of the first batch holds id 600.*set --recipe\.source_vocab_size 601"
    ):
        check_batch({"source": target + 600, "target": target, "targets": target}, model, SequenceToSequence())
    with pytest.raises(MismatchError, match="target of the first batch holds id -1"):
        check_batch({"source": target, "target": target - 1, "targets": target}, model, SequenceToSequence())
