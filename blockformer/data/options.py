"""The options of the data: common settings, and beside them the parameters of the chosen dataset and tokenizer."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from blockformer.data.datasets.base import COMMON, Dataset, Form
from blockformer.data.tokenizers.base import TokenizerComponent
from blockformer.errors import DataError
from blockformer.option_groups import Chosen, OptionGroup

_USUAL: Mapping[Form, str] = {
    "documents": "docstrings",
    "pairs": "cldr",
    "classes": "table_classes",
    "scores": "table_scores",
    "chats": "chat",
}
DATA = OptionGroup("data", {"dataset": Dataset.slot.name, "tokenizer": TokenizerComponent.slot.name}, COMMON, DataError)


def class_of(name: Any) -> type[Dataset]:
    """The class of the dataset of this name.

    Raises:
        DataError: there is none.
    """
    return cast("type[Dataset]", DATA.entry("dataset", name).block)


def tokenizer_class(name: Any) -> type[TokenizerComponent]:
    """The class of the tokenizer of this name.

    Raises:
        DataError: there is none.
    """
    return cast("type[TokenizerComponent]", DATA.entry("tokenizer", name).block)


def files_read(given: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings that name what the dataset and the tokenizer of these settings read.

    Raises:
        DataError: there is no such dataset or tokenizer.
    """
    dataset, tokenizer = (given.get(option) for option in DATA.slots)
    named = () if dataset is None else class_of(dataset).reads
    return (*named, *(() if tokenizer is None else tokenizer_class(tokenizer).reads))


def default_dataset(forms: Sequence[Form]) -> str:
    """The dataset where none is named, for an objective that learns from data of these forms."""
    return next((name for form, name in _USUAL.items() if form in forms), "cldr")


def chosen_components(given: Mapping[str, Any]) -> Chosen:
    """The names of the dataset and the tokenizer that settings choose; ids of a dataset need no tokenizer.

    Raises:
        DataError: there is no such dataset or tokenizer.
    """
    dataset = given.get("dataset") or "docstrings"
    if class_of(dataset).own_ids:
        return {"dataset": dataset}
    tokenizer = given.get("tokenizer") or "bpe"
    DATA.entry("tokenizer", tokenizer)
    return {"dataset": dataset, "tokenizer": tokenizer}
