"""Bring data and model together: what one decides for the other, and whether they fit."""

from typing import Any

from blocks.models.base import Model
from training.errors import UserError


class MismatchError(UserError):
    """Data and model do not fit each other; the message is one line and says what to change."""


def fit_data_to_model(data: Any, model: Model, objective: str) -> None:
    """Tell the data what the model is trained for, and compare their sizes.

    Args:
        data: a prepared TextData; any other data module is left alone.
        model: what it shall train.
        objective: the objective's name.

    Raises:
        MismatchError: the data's objective, vocabulary or length is not for this model.
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
