"""The settings of the data beside a dataset: those of :class:`TextData` and those of the dataset, in one signature."""

from inspect import Parameter, signature
from typing import Any

from blockformer.data.module import TextData
from blockformer.data.options import class_of, dataset_named, unlimited

_COMMON = {
    name: parameter
    for name, parameter in signature(TextData.__init__).parameters.items()
    if name != "self" and parameter.kind is not Parameter.VAR_KEYWORD
}


def settings_of(dataset: str) -> dict[str, Parameter]:
    """Every setting that means something beside this dataset, by its name.

    Raises:
        DataError: there is no such dataset.
    """
    entry = dataset_named(dataset)
    common = {name: parameter for name, parameter in _COMMON.items() if name not in class_of(dataset).unused}
    own = {
        name: Parameter(
            name, Parameter.KEYWORD_ONLY, default=parameter.default, annotation=unlimited(parameter.annotation)
        )
        for name, parameter in entry.parameters.items()
    }
    return {**common, **own} | {"dataset": common["dataset"].replace(default=dataset)}


def data_class(dataset: str) -> type[TextData]:
    """:class:`TextData` with the settings of one dataset in its signature, from which jsonargparse makes options.

    Raises:
        DataError: there is no such dataset.
    """

    def __init__(self: TextData, **settings: Any) -> None:  # noqa: N807
        TextData.__init__(self, **settings)

    own = dataset_named(dataset).parameters.values()
    described = "\n".join(f"        {parameter.name}: {parameter.description}" for parameter in own)
    before, after = (TextData.__doc__ or "").split("        options: ")
    made = [Parameter("self", Parameter.POSITIONAL_ONLY), *settings_of(dataset).values()]
    __init__.__signature__ = signature(TextData.__init__).replace(parameters=made)
    rest = after[after.index("\n\n    Raises") :]
    return type("TextData", (TextData,), {"__init__": __init__, "__doc__": before + described + rest})
