"""The figure that a study compares: whether its runs have it, and which values are better."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from blockformer.errors import UserError
from blockformer.training.evaluations import FIGURE, better_of, evaluations_of
from blockformer.training.score import BETTER
from registry import Problem
from registry.errors import nearest
from registry.strict_yaml import Map, as_plain, mark_of

_OF_SOURCE = re.compile(r"(?:val|test|train)/\w+/(.+)")


def problems_of_figure(tree: Map, figure: str, fit: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    """The problems in a study's settings that keep its runs from having its figure.

    Args:
        tree: the study with the lines of its keys.
        figure: the figure.
        fit: settings of the runs, by group and key.
    """

    def problem(message: str) -> Problem:
        return Problem(mark_of(tree, ("figure",)), "figure", message)

    if FIGURE.fullmatch(figure):
        try:
            better_of(figure, evaluations_of(as_plain(fit.get("evaluations"))))
        except UserError as error:
            if not str(error).startswith("evaluations"):  # else it is reported with the settings
                yield problem(str(error).replace("the run has none", "give fit.evaluations"))
    elif found := _OF_SOURCE.fullmatch(figure):
        data = fit.get("data", {})
        sources = data.get("sources")
        if data.get("dataset") != "mixture":
            yield problem(f"{figure} is of a source of a mixture: set fit.data.dataset mixture, or compare val/loss")
        elif isinstance(sources, Mapping) and found[1] not in sources:
            known = nearest(found[1], sources) or f"known: {', '.join(sources)}"
            yield problem(f"there is no source {found[1]!r} in fit.data.sources; {known}")


def higher_is_better(figure: str, fit: Mapping[str, Any] | None = None) -> bool:
    """Whether a larger value of a figure such as `val/accuracy` is better.

    Args:
        figure: the figure, which the runs have.
        fit: settings of the runs, which have the evaluations; None: there are none.
    """
    if FIGURE.fullmatch(figure):
        return better_of(figure, evaluations_of(as_plain((fit or {}).get("evaluations")))) is max
    return BETTER.get(figure.split("/")[1].partition("@")[0], min) is max


def of_validations(figure: str) -> str:
    """The figure of validations while a run trains that belongs to a study's figure."""
    if figure.startswith("test/"):
        return f"val/{figure.removeprefix('test/')}"
    return figure.partition("@")[0] if figure.startswith("val/") else figure
