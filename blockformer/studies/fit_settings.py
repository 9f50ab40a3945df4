"""The settings of `fit` inside a study, checked key by key before anything is trained."""

from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from blockformer.data.datasets.base import COMMON
from blockformer.data.options import dataset_named, options_elsewhere, unknown_option, wrong_values
from blockformer.errors import DataError
from registry import Problem
from registry.errors import nearest
from registry.strict_yaml import Map, as_plain, dotted, mark_of

DEFAULT_LENGTH, DEFAULT_BATCH = 128, 32  # of the data, where a study does not say
DECIDED = {
    "data.seed": "the study's seeds decide it",
    "model.recipe": "the study's variants decide it",
    "model.seed": "the study's seeds decide it",
    "model.optimizer": "say fit.optimizer",
    "trainer.max_epochs": "a study stops all runs at one step: trainer.max_steps",
    "trainer.max_time": "a study stops all runs at one step: trainer.max_steps",
}
TRAINER = (
    *("accelerator", "strategy", "devices", "num_nodes", "precision", "max_steps", "accumulate_grad_batches"),
    *("gradient_clip_val", "val_check_interval", "limit_val_batches", "limit_test_batches", "log_every_n_steps"),
    *("deterministic", "benchmark"),
)
"""Settings of the trainer that a study may have. The others name code, places on disk, or another end of the run."""


def problems_in_settings(
    tree: Map, fit: Mapping[str, Mapping[str, Any]], default: str = "docstrings"
) -> Iterator[Problem]:
    """What is wrong with `fit` in a study: groups, keys and values, each with its file and line.

    Args:
        tree: the study with the lines of its keys.
        fit: its settings, by group and key.
        default: the dataset where none is named.
    """

    def problem(path: tuple[str, ...], message: str) -> Problem:
        return Problem(mark_of(tree, path), dotted(path), message)

    dataset = fit.get("data", {}).get("dataset", default)
    try:
        dataset_named(dataset)
    except DataError as error:
        yield problem(("fit", "data", "dataset"), str(error).removeprefix("data.dataset: "))
        dataset = default
    for group, settings in fit.items():
        known = groups_of(dataset).get(group)
        if known is None:
            yield problem(
                ("fit", group),
                f"there is no such group; {nearest(group, groups_of(dataset)) or _listed(groups_of(dataset))}",
            )
            continue
        for key, value in settings.items():
            path, reason = ("fit", group, key), DECIDED.get(f"{group}.{key}")
            if reason is not None:
                yield problem(path, f"cannot be set: {reason}")
            elif group == "data" and key not in known and (key in options_elsewhere(dataset) or key in COMMON):
                yield problem(path, unknown_option(key, dataset).partition(" ")[2])
            elif key not in known:
                yield problem(path, f"there is no such setting; {nearest(key, known) or _listed(known)}")
            elif wrong := _wrong_value(dataset, group, key, value):
                yield problem(path, wrong)


def _listed(known: Mapping[str, Any] | tuple[str, ...]) -> str:
    return f"known: {', '.join(known)}"


@lru_cache(maxsize=8)
def groups_of(dataset: str) -> dict[str, tuple[str, ...]]:
    """The settings of each group, beside a dataset."""
    parser = parser_of(dataset)
    names = [action.dest for action in parser._actions if "." in action.dest and not action.dest.endswith(".help")]
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        group, _, key = name.partition(".")
        if "." not in key and (group != "trainer" or key in TRAINER):
            found[group] = (*found.get(group, ()), key)
    return found


@lru_cache(maxsize=8)
def parser_of(dataset: str) -> Any:
    """A parser of the settings beside a dataset, as `fit` has them."""
    from jsonargparse import ArgumentParser
    from lightning.pytorch import Trainer

    from blockformer.data.settings import data_class
    from blockformer.training.module import TrainingModule
    from blockformer.training.optimizer import OptimizerSettings

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(data_class(dataset), "data")
    parser.add_class_arguments(OptimizerSettings, "optimizer")
    parser.add_class_arguments(TrainingModule, "model", skip={"recipe", "optimizer", "seed"})
    parser.add_class_arguments(Trainer, "trainer")
    return parser


def _wrong_value(dataset: str, group: str, key: str, value: Any) -> str:
    """What is wrong with a value; empty: nothing."""
    from blockformer.training.parse_errors import readable

    if isinstance(value, Mapping):
        return "must be a plain value, not a mapping"
    plain = as_plain(value)
    try:
        plain = list(plain) if isinstance(plain, tuple) else plain
        parser_of(dataset).parse_object({group: {key: plain}})
    except ArgumentError as error:
        return readable(str(error), (), dataset).partition(": ")[2] or str(error)
    own = group == "data" and key in dataset_named(dataset).parameters
    return "; ".join(wrong_values(dataset, {key: plain})).partition(" ")[2] if own else ""
