"""Bring data and model together: what one decides for the other, and whether they fit."""

from collections.abc import Iterator
from typing import Any

from blockformer.assembly.capabilities import blocks_by_key, blocks_without
from blockformer.errors import UserError
from blocks.models.base import Model
from registry import Ability


class MismatchError(UserError):
    """Data, trainer and model do not fit each other; the message is one line and says what to change."""


def check_data(data: Any, model: Model, objective: str) -> None:
    """Tell the data what the model is trained for, and compare what they can.

    Args:
        data: a prepared TextData; any other data module is left alone.
        model: what it shall train.
        objective: the objective's name.

    Raises:
        MismatchError: the data's objective, vocabulary or length is not for this model, or one of its blocks cannot be
            given what the data has.
    """
    if not hasattr(data, "configure"):
        return
    data.configure(objective=objective)
    if data.objective != objective:
        raise MismatchError(
            f"data.objective is {data.objective}, and this {model.kind} model is trained for {objective}"
        )
    if data.vocab_size > model.vocab_size:
        raise MismatchError(
            f"the tokenizer has {data.vocab_size} token ids and the recipe's vocab_size is {model.vocab_size}: "
            f"say --recipe.vocab_size {data.vocab_size}, or change --data.tokenizer or --data.vocab_size"
        )
    if data.length > model.max_length:
        raise MismatchError(
            f"data.length {data.length} is more than the recipe's max_length {model.max_length}: "
            "lower the one or raise the other"
        )
    for ability, what in _asked(data):
        if blocks := blocks_without(model, ability):
            raise MismatchError(f"{what}, and that cannot be given to {blocks}")


def check_precision(precision: str, model: Model) -> None:
    """Whether the model can be trained in a trainer's precision, such as ``bf16-mixed``.

    Raises:
        MismatchError: one of its blocks cannot.
    """
    if precision.startswith("bf16") and (blocks := blocks_without(model, "bfloat16")):
        raise MismatchError(f"--trainer.precision {precision} cannot be used with {blocks}; say 32-true")


def check_device(device: str, model: Model) -> None:
    """Whether the model can be trained on a kind of device, such as ``cpu``.

    Raises:
        MismatchError: the recipe chooses a backend without gradients there.
    """
    if device == "cpu" and (keys := backend_keys(model, "flex")):
        raise MismatchError(
            f"backend flex has no gradients on a CPU: say auto, eager or sdpa at {' and '.join(keys)}, or use a GPU"
        )


def backend_keys(model: Model, backend: str) -> list[str]:
    """The keys of the model's recipe that choose ``backend`` for a block that is built."""
    chosen = (key for key, _, spec in blocks_by_key(model) if getattr(spec.params, "backend", None) == backend)
    return list(dict.fromkeys(f"{key}.backend" for key in chosen))


def remarks_on_data(data: Any, model: Model) -> Iterator[str]:
    """What of a model the data leaves untrained, though it fits."""
    if not hasattr(data, "configure"):
        return
    if model.vocab_size > data.vocab_size:
        yield (
            f"{model.vocab_size - data.vocab_size:,} of {model.vocab_size:,} token ids stand for nothing, as the "
            f"tokenizer has {data.vocab_size:,}: --recipe.vocab_size {data.vocab_size} saves their rows"
        )
    fixed = [component for _, component in model.components() if not component.capabilities.any_length]
    if fixed and data.length < model.max_length:
        yield (
            f"positions from {data.length:,} on are not trained, as no text is longer, and max_length is "
            f"{model.max_length:,}"
        )


def _asked(data: Any) -> Iterator[tuple[Ability, str]]:
    if data.objective != "causal_lm":
        yield "padding", f"texts of different lengths are padded for {data.objective}"
    elif data.separate_documents:
        yield "documents", "rows hold several documents that are kept apart (unless data.separate_documents is false)"
