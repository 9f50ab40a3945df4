"""Check the settings that a checkpoint stores before any parser reads them: known keys, and values of their types.

A checkpoint may come from an untrusted source, and some settings name code to import, files to read or places to write
to. Those are never taken from it, except files that this user named: see :mod:`blockformer.training.signature`.
"""

from collections.abc import Callable, Mapping
from inspect import get_annotations
from typing import Any, get_type_hints

from lightning.pytorch import Trainer
from pydantic import ConfigDict, TypeAdapter, ValidationError

from blockformer.assembly.checkpoint_schema import short_name
from blockformer.data.options import DATA, chosen_components, class_of, files_read
from blockformer.errors import DataError, UserError
from blockformer.files import is_name
from blockformer.option_groups import OptionGroup
from blockformer.training.components import GROUPS, Components
from blockformer.training.evaluations import evaluations_of
from blockformer.training.module import TrainingModule
from blockformer.training.objectives import paths_read
from blockformer.training.run_folder import RunSettings
from blockformer.training.signature import is_signed

Settings = dict[str, Any]

LONGEST = 1000  # characters of a text
_TAKEN = {
    "trainer": (
        *("max_steps", "max_epochs", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"),
        *("precision", "log_every_n_steps", "val_check_interval", "check_val_every_n_epoch"),
        *("limit_train_batches", "limit_val_batches", "overfit_batches"),
    ),
    "run": (
        *("variant", "save_every", "checkpoint", "keep_last", "keep_best"),
        *("monitor", "project", "group", "job_type", "tags"),
    ),
}
"""Of these groups the other settings are left out: they name code or places."""
_WHOLE = {"model": TrainingModule.__init__}
_OBJECTS = {"model.recipe", "model.optimizer", "model.objective"}  # parameters that come from other settings
_CONFIG = ConfigDict(strict=True, allow_inf_nan=False, str_max_length=LONGEST)


def safe_settings(config: Mapping[str, Any]) -> Settings:
    """The part of a checkpoint's configuration that only sets numbers, names and choices.

    Raises:
        UserError: a setting is unknown or has a value of another type; the message names its key.
    """
    kept: Settings = {}
    types = _types(config)
    for group, own in types.items():
        if config.get(group) is not None:
            kept[group] = _checked(group, _section(config, group), own)
    for group, definition in _WHOLE.items():
        if config.get(group) is not None:
            hints = get_type_hints(definition).items()
            own = {name: hint for name, hint in hints if f"{group}.{name}" not in _OBJECTS}
            kept[group] = _checked(group, _section(config, group), own)
    if "seed_everything" in config:
        kept |= _checked("", {"seed_everything": config["seed_everything"]}, {"seed_everything": int | bool | None})
    known = {"trainer": get_annotations(Trainer.__init__, eval_str=True), "run": get_type_hints(RunSettings)}
    for group, keys in _TAKEN.items():
        section = _section(config, group)
        kept[group] = _checked(group, {key: section[key] for key in keys if key in section}, known[group])
    variant = kept["run"].get("variant")
    if variant is not None and not is_name(variant):
        raise UserError(f"config.run.variant {short_name(variant)!r} is not a name")
    return kept


def settings_of(metadata: Mapping[str, Any], said: Callable[[str], Any]) -> Settings:
    """The settings that a checkpoint gives to a command, for those that the user doesn't give.

    Args:
        metadata: the checkpoint's.
        said: the value that the user gives for a setting such as `data.files`; None: none.

    Raises:
        UserError: a setting is wrong, or names files that the user has to name.
    """
    settings = safe_settings(_with_chosen(metadata["config"], said))
    data = settings.setdefault("data", {})
    signed, stored = _is_signed(metadata), metadata["config"].get("data") or {}
    if not signed:
        for key in paths_read(objective := settings.get("objective") or {}):
            objective.pop(key, None)
    if data.get("dataset") is not None and not (signed and stored.get("dataset") == data["dataset"]):
        named = [key for key in files_read(data) if data.pop(key, None)]
        needed = class_of(data["dataset"]).reads  # of the tokenizer none is: the checkpoint has it
        if missing := [f"--data.{key}" for key in named if key in needed and said(f"data.{key}") is None]:
            raise UserError(
                f"its data files were named by another user or on another machine, and such paths are not "
                f"read: give {' and '.join(missing)}"
            )
    return settings


def _is_signed(metadata: Mapping[str, Any]) -> bool:
    """Whether what the stored settings name to be read are this user's words."""
    data, objective = (metadata["config"].get(group) for group in ("data", "objective"))
    if not isinstance(data, Mapping) or not isinstance(objective, Mapping | None):
        return False
    try:
        return is_signed(data, objective or {}, metadata.get("signature"))
    except (DataError, UserError):  # of a component that is not registered, in whose place the user has chosen another
        return False


def _with_chosen(config: Mapping[str, Any], said: Callable[[str], Any]) -> Mapping[str, Any]:
    """The configuration with the components that the user chooses, and without settings that those do not have."""
    result = dict(config)
    for name, (group, base) in GROUPS.items():
        stored = config.get(name)
        chosen = {option: said(f"{name}.{option}") for option in group.slots}
        if not isinstance(stored, Mapping) or not any(
            new is not None and new != stored.get(option) for option, new in chosen.items()
        ):
            continue
        now = {**{option: stored.get(option) for option in group.slots}, **_given(chosen)}
        if name == DATA.name:
            now = dict(chosen_components(now))  # ids of a dataset need no tokenizer
        known = group.settings(_given(now), base)
        changed = [option for option, new in _given(chosen).items() if new != stored.get(option)]
        gone = {key for option in changed for key in _own_settings(group, option, stored.get(option))}
        result[name] = {key: value for key, value in stored.items() if key in known and key not in gone} | _given(now)
    return result


def _given(chosen: Mapping[str, Any]) -> dict[str, Any]:
    return {option: name for option, name in chosen.items() if name is not None}


def _own_settings(group: OptionGroup, option: str, name: Any) -> Mapping[str, Any]:
    """The settings of the component that a checkpoint names; none if it is not registered."""
    try:
        return group.entry(option, name).parameters
    except group.error:
        return {}


def _types(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The type of each setting, by group, of the components that a configuration names.

    Raises:
        UserError: one of them is not registered.
    """
    data, objective, optimizer = (_section(config, group) for group in ("data", "objective", "optimizer"))
    try:
        components = Components.of(data, objective.get("type") or "causal_lm", optimizer)
        return {
            name: {key: one.annotation for key, one in group.settings(components.chosen(name), base).items()}
            for name, (group, base) in GROUPS.items()
        }
    except (DataError, UserError) as error:
        raise UserError(f"config.{error}") from None


def stored_evaluations(config: Mapping[str, Any]) -> Settings:
    """The setting `evaluations` of a checkpoint's configuration, if it has one.

    Raises:
        UserError: one is wrong, or names what the user has to name again.
    """
    if config.get("evaluations") is None:
        return {}
    try:
        planned = evaluations_of(config["evaluations"])
    except UserError as error:
        raise UserError(f"config.{error}") from None
    for label, one in planned.items():
        for key in one.evaluation.reads:
            if config["evaluations"][label].get(key) is not None:
                raise UserError(f"evaluations.{label}.{key} is not taken from a checkpoint: give --evaluations again")
    return {"evaluations": dict(config["evaluations"])}


def _section(config: Mapping[str, Any], group: str) -> Mapping[str, Any]:
    section = config.get(group)
    if section is not None and not isinstance(section, Mapping):
        raise UserError(f"config.{group} is a {type(section).__name__}, not settings by name")
    return section or {}


def _checked(group: str, section: Mapping[str, Any], types: Mapping[str, Any]) -> Settings:
    """The section as it is, if each key is known and each value of its type."""
    for key, value in section.items():
        where = ".".join(["config", *([group] if group else []), short_name(key)])
        if key not in types:
            raise UserError(f"{where} is not a setting that a checkpoint stores")
        try:
            TypeAdapter(types[key], config=_CONFIG).validate_python(value)
        except ValidationError as error:
            reason = error.errors(include_url=False, include_context=False, include_input=False)[0]["msg"]
            raise UserError(f"{where} has a wrong value: {reason.lower()}") from None
    return dict(section)
