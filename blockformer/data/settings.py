"""The settings of the data beside a dataset: those of :class:`TextData` and those of the dataset, in one signature."""

from inspect import Parameter

from blockformer.data.module import TextData
from blockformer.data.options import DATA


def settings_of(dataset: str) -> dict[str, Parameter]:
    """Every setting that means something beside this dataset, by its name.

    Raises:
        DataError: there is no such dataset.
    """
    return DATA.settings({"dataset": dataset}, TextData)


def data_class(dataset: str) -> type[TextData]:
    """:class:`TextData` with the settings of one dataset in its signature, from which jsonargparse makes options.

    Raises:
        DataError: there is no such dataset.
    """
    return DATA.class_for({"dataset": dataset}, TextData)
