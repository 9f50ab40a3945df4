"""The options of the data: common settings, and beside them the parameters of the chosen dataset."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from blockformer.data.datasets.base import COMMON, Dataset, Form
from blockformer.errors import DataError
from blockformer.option_groups import OptionGroup

DATA = OptionGroup("data", {"dataset": Dataset.slot.name}, COMMON, DataError)


def class_of(name: Any) -> type[Dataset]:
    """The class of the dataset of this name.

    Raises:
        DataError: there is none.
    """
    return cast("type[Dataset]", DATA.entry("dataset", name).block)


def default_dataset(forms: Sequence[Form]) -> str:
    """The dataset where none is named, for an objective that learns from data of these forms."""
    return "docstrings" if "documents" in forms else "cldr"


def make_dataset(name: str, options: Mapping[str, Any]) -> Dataset:
    """The dataset with these options.

    Raises:
        DataError: it has no such option, or a value is wrong; all problems are named.
    """
    return DATA.make({"dataset": name}, options)["dataset"]
