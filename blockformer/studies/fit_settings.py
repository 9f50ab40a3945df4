"""The settings of `fit` inside a study, checked key by key before anything is trained."""

from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from blockformer.errors import UserError
from blockformer.training.components import GROUPS, Components
from blockformer.training.evaluations import evaluations_of
from blockformer.training.nested_options import MAPPINGS
from blockformer.training.number_types import prefer_integers
from registry import Problem
from registry.errors import nearest
from registry.merge import dotted
from registry.strict_yaml import Map, as_plain, mark_of

DEFAULT_LENGTH, DEFAULT_BATCH = 128, 32  # of the data, where a study does not say
DECIDED = {
    "data.seed": "the study's seeds set it",
    "model.recipe": "the study's variants set it",
    "model.seed": "the study's seeds set it",
    "model.objective": "say fit.objective",
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
    tree: Map, fit: Mapping[str, Mapping[str, Any]], dataset: str, objective: str
) -> Iterator[Problem]:
    """What is wrong with `fit` in a study: groups, keys and values, each with its file and line.

    Args:
        tree: the study with the lines of its keys.
        fit: its settings, by group and key.
        dataset: the one where none is named.
        objective: likewise.
    """

    def problem(path: tuple[str, ...], message: str) -> Problem:
        return Problem(mark_of(tree, path), dotted(path), message)

    named: dict[str, dict[str, Any]] = {
        "data": {"dataset": dataset},
        "objective": {"type": objective},
        "optimizer": {},
    }
    for name, (group, _) in GROUPS.items():
        for option in group.slots:
            if (component := fit.get(name, {}).get(option)) is not None:
                try:
                    group.entry(option, component)
                    named[name][option] = component
                except group.error as error:
                    yield problem(("fit", name, option), str(error).removeprefix(f"{name}.{option}: "))
    components = Components.of(named["data"], named["objective"]["type"], named["optimizer"])
    yield from _unread_or_wrong(fit, components, problem)


def _unread_or_wrong(
    fit: Mapping[str, Mapping[str, Any]], components: Components, problem: Callable[[tuple[str, ...], str], Problem]
) -> Iterator[Problem]:
    """Settings that nothing reads, and those with a wrong value."""
    for group, settings in fit.items():
        groups = groups_of(components)
        known = groups.get(group)
        if group == "evaluations":
            try:
                evaluations_of(as_plain(settings))
            except UserError as error:
                yield problem(("fit", group), str(error))
            continue
        if known is None:
            named = (*groups, "evaluations")
            yield problem(("fit", group), f"there is no such group; {nearest(group, named) or _listed(named)}")
            continue
        for key, value in settings.items():
            path, reason = ("fit", group, key), DECIDED.get(f"{group}.{key}")
            if reason is not None:
                yield problem(path, f"cannot be set: {reason}")
            elif key not in known and (unread := components.unknown(f"{group}.{key}")) is not None:
                yield problem(path, unread.partition(" ")[2])
            elif key not in known:
                yield problem(path, f"there is no such setting; {nearest(key, known) or _listed(known)}")
            elif wrong := _wrong_value(components, group, key, value):
                yield problem(path, wrong)


def _listed(known: Mapping[str, Any] | tuple[str, ...]) -> str:
    return f"known: {', '.join(known)}"


@lru_cache(maxsize=8)
def groups_of(components: Components) -> dict[str, tuple[str, ...]]:
    """The settings of each group, beside these components."""
    return {group: tuple(actions_of(components, group)) for group in (*GROUPS, "model", "trainer")}


def actions_of(components: Components, group: str) -> dict[str, Any]:
    """The settings of a group as actions of its parser, beside these components."""
    found = {action.dest: action for action in _parser(components, group)._actions if "." in action.dest}
    keys = {dest.partition(".")[2]: action for dest, action in found.items()}
    known = {key: action for key, action in keys.items() if "." not in key and key != "help"}
    return {key: known[key] for key in known if group != "trainer" or key in TRAINER}


def _parser(components: Components, group: str) -> Any:
    """A parser of the settings of one group, as `fit` has them."""
    return _parser_for(group, tuple(components.chosen(group).items()) if group in GROUPS else ())


@lru_cache(maxsize=32)
def _parser_for(group: str, chosen: tuple[tuple[str, str], ...]) -> Any:
    from jsonargparse import ArgumentParser
    from lightning.pytorch import Trainer

    from blockformer.training.module import TrainingModule

    parser = ArgumentParser(exit_on_error=False)
    if group in GROUPS:
        known, base = GROUPS[group]
        parser.add_class_arguments(known.class_for(dict(chosen), base), group)
    elif group == "model":
        parser.add_class_arguments(TrainingModule, group, skip={"recipe", "objective", "optimizer", "seed"})
    else:
        parser.add_class_arguments(Trainer, group)
    prefer_integers(parser)
    return parser


def _wrong_value(components: Components, group: str, key: str, value: Any) -> str:
    """What is wrong with a value; empty: nothing."""
    from blockformer.training.parse_errors import readable

    if isinstance(value, Mapping) and f"{group}.{key}" not in MAPPINGS:
        return "must be a plain value, not a mapping"
    plain = as_plain(value)
    try:
        plain = list(plain) if isinstance(plain, tuple) else plain
        _parser(components, group).parse_object({group: {key: plain}})
    except ArgumentError as error:
        return readable(str(error), (), components).partition(": ")[2] or str(error)
    wrong = GROUPS[group][0].wrong_values(components.chosen(group), {key: plain}) if group in GROUPS else []
    return "; ".join(wrong).partition(" ")[2]
