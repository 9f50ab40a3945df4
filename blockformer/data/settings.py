"""The settings of the data beside components: those of :class:`TextData` and theirs, in one signature."""

from collections.abc import Mapping
from inspect import Parameter
from typing import Any

from blockformer.data.module import TextData
from blockformer.data.options import DATA, chosen_components


def settings_of(given: Mapping[str, Any]) -> dict[str, Parameter]:
    """Every setting that means something beside the components that these settings choose, by its name.

    Raises:
        DataError: there is no such component.
    """
    return DATA.settings(chosen_components(given), TextData)


def data_class(given: Mapping[str, Any]) -> type[TextData]:
    """:class:`TextData` with the settings of these components in its signature, from which jsonargparse makes options.

    Raises:
        DataError: there is no such component.
    """
    return DATA.class_for(chosen_components(given), TextData)
