"""The arguments of a run: the recipe, loaded and checked once, the checkpoint, and the settings for Lightning."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blockformer.assembly.builder import check
from blockformer.assembly.checkpoint import LoadError, read_metadata, required_value, verify
from blockformer.assembly.loading import stored_recipe
from blockformer.data.options import class_of, default_dataset
from blockformer.data.tokenizer import Tokenizer
from blockformer.data.tokenizers.file import has_tokenizer
from blockformer.errors import UserError
from blockformer.generation.trained_folder import is_imported, stored_tokenizer
from blockformer.training.components import Components
from blockformer.training.decay_from import take_trunk
from blockformer.training.evaluations import Planned, evaluations_of
from blockformer.training.given import Given
from blockformer.training.init_from import check_source, recipe_in
from blockformer.training.nested_options import MAPPINGS, component_of, fold_nested
from blockformer.training.objectives import chosen_objective, default_objective
from blockformer.training.recipe_argument import RecipeArgument
from blockformer.training.run_folder import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    LAST,
    FoundCheckpoint,
    RunSettings,
    find_checkpoint,
    folder_of,
    signature_in,
)
from blockformer.training.stored_settings import Settings, safe_settings, settings_of, stored_evaluations
from blocks.models.base import Model
from registry import RecipeError, load_recipe
from registry.strict_yaml import read_yaml
from registry.text import shortened

BUILT_IN = ("blocks.", "blockformer.")

__all__ = ["FitArguments", "Given", "Settings", "fit_arguments", "safe_settings"]


@dataclass
class FitArguments:
    """A complete request to fit, validate, test or predict.

    Args:
        verb: fit, validate, test or predict.
        recipe: the recipe, checked.
        variant: what to call it.
        components: the dataset, the objective, the optimizer and the schedule.
        configs: settings as `{group: {option: value}}`; later ones win.
        options: arguments for jsonargparse, which win over `configs`; None: called from Python.
        checkpoint: the file that `--ckpt_path` means, if it was given.
        init_from: the trained model that the run begins with, or began with before the checkpoint.
        tokenizer: the checkpoint's, with which it is scored and continued.
        tokenizer_settings: those of the data with which the checkpoint's tokenizer was made, as far as they are known.
        named: the folder of the run that `--ckpt_path last` names, which has no checkpoint yet.
        decay_from: the trunk that the run continues with a falling learning rate, if it does.
        evaluations: by label.
    """

    verb: str
    recipe: RecipeArgument
    variant: str
    components: Components
    configs: list[Settings]
    options: list[str] | None = None
    checkpoint: Path | None = None
    init_from: str | None = None
    tokenizer: Tokenizer | None = None
    tokenizer_settings: Mapping[str, Any] = field(default_factory=dict)
    named: Path | None = None
    decay_from: str | None = None
    evaluations: Mapping[str, Planned] = field(default_factory=dict)

    @property
    def model(self) -> Model:
        """The recipe's model, without memory."""
        return self.recipe.model

    @property
    def dataset(self) -> str:
        """The name of the dataset."""
        return self.components.dataset

    @property
    def plugins(self) -> list[str]:
        """The modules outside this project that registered blocks of this recipe, or another component."""
        modules = {spec.entry.block.__module__ for _, spec in self.recipe.recipe.spec.walk()}
        modules |= {type(one.evaluation).__module__ for one in self.evaluations.values()}
        modules |= {entry.block.__module__ for entry in self.components.entries()}
        return sorted(module for module in modules if not module.startswith(BUILT_IN))

    def settings(self) -> Settings:
        """All `configs` as one."""
        result: Settings = {}
        for config in self.configs:
            result = _merged(result, config)
        return result


def fit_arguments(verb: str, given: Given) -> FitArguments:
    """Find the checkpoint, load and check the recipe, and complete the settings.

    Args:
        verb: fit, validate, test or predict.
        given: what the user gave.

    Raises:
        RecipeError: something is wrong with the recipe; all of it is named.
        UserError: there is no recipe, or no such checkpoint.
        DataError, UserError: there is no such dataset, objective, optimizer, schedule or evaluation.
    """
    decay_from = take_trunk(given, verb)
    found = _checkpoint(given)
    _check_run_is_of_use(given, verb, found.checkpoint)
    checkpoint, named = found.checkpoint, found.folder if found.checkpoint is None else None
    init_from = _init_from(given, verb, checkpoint)
    begins = named is not None and verb == "fit" and given.value("ckpt_path") == LAST
    if named is not None and not (begins and (given.source or _add_saved(given, named))):
        raise UserError(f"{named / CHECKPOINTS / given.value('ckpt_path')}.ckpt: there is no such checkpoint")
    if checkpoint is None and verb != "fit":
        raise UserError(f"{verb} needs a model: give --ckpt_path a checkpoint, or last or best of a run")
    if verb != "fit" and given.value("evaluations") is not None:
        raise UserError(f"--evaluations is for fit, in whose validations they are made; {verb} makes none")
    tokenizer = None if checkpoint is None else _complete(given, checkpoint, read_metadata(checkpoint), verb)
    fold_nested(given)
    named_by_source = None
    if given.source is None and init_from is not None and checkpoint is None:
        given.source, named_by_source = recipe_in(Path(init_from))
    if given.source is None:
        raise UserError("no recipe is given: set --recipe to a file or a name, such as gpt2; see `blockformer recipes`")
    recipe = RecipeArgument(load_recipe(given.source, given.overrides))
    variant = given.value("run.variant") or named_by_source or recipe.recipe.name
    objective = given.value("objective.type") or default_objective(recipe.model.kind)
    forms = chosen_objective(objective, component_of(given, "objective.of")).forms
    data = {"dataset": given.value("data.dataset") or default_dataset(forms)}
    if init_from is not None and checkpoint is None:
        _take_tokenizer(given, Path(init_from), data["dataset"])
    configs = [*given.configs, given.settings] if given.options is None else given.configs
    data["tokenizer"] = given.value("data.tokenizer")
    optimizer = {key: given.value(f"optimizer.{key}") for key in ("type", "schedule")}
    components = Components.of(data, objective, optimizer)
    arguments = FitArguments(
        verb,
        recipe,
        variant,
        components,
        configs,
        given.options,
        checkpoint,
        init_from,
        tokenizer,
        named=named,
        decay_from=decay_from,
        evaluations=evaluations_of(given.value("evaluations")),
    )
    if tokenizer is not None and checkpoint is not None:
        arguments.tokenizer_settings = (read_metadata(checkpoint).get("config") or {}).get("data") or {}
    return arguments


def _checkpoint(given: Given) -> FoundCheckpoint:
    wanted = given.value("ckpt_path")
    if wanted is None:
        return FoundCheckpoint(None)
    settings = RunSettings(name=given.value("run.name"), root=given.value("run.root") or "runs")
    found = find_checkpoint(str(wanted), settings, given.config_folder)
    if found.checkpoint is not None:
        verify(found.checkpoint)
    return found


def _check_run_is_of_use(given: Given, verb: str, checkpoint: Path | None) -> None:
    """Check that who scores a checkpoint by its path does not also name another run, which would have no effect.

    Raises:
        UserError: one is named.
    """
    if verb == "fit" or checkpoint is None or given.value("ckpt_path") in (LAST, BEST):
        return
    home = folder_of(checkpoint)
    own = {} if home is None else {"name": home.resolve(), "root": home.resolve().parent}
    asked = given.settings.get("run") or {}
    root = Path(asked.get("root") or (home.parent if home is not None else "runs"))
    for key, value in asked.items():
        place = root / str(value) if key == "name" else root
        if key in ("name", "root") and value is not None and place.resolve() != own.get(key):
            raise UserError(
                f"run.{key} {shortened(str(value))} has no effect on {verb} with the path of a checkpoint: remove it, "
                "or give --ckpt_path last or best of that run; --out names the folder of the results"
            )


def _add_saved(given: Given, folder: Path) -> bool:
    """Take the settings that a run without a checkpoint has saved; False: there are none."""
    path = folder / CONFIG
    if not path.is_file():
        return False
    saved = json.loads(json.dumps(read_yaml(path)))
    try:
        settings = settings_of({"config": saved, "signature": signature_in(path)}, given.value)
        settings |= {} if given.value("evaluations") is not None else stored_evaluations(saved)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    given.source = saved.get("recipe")
    given.configs.insert(0, json.loads(json.dumps(settings)) | {"init_from": saved.get("init_from")})
    return True


def _init_from(given: Given, verb: str, checkpoint: Path | None) -> str | None:
    """The trained model that a run begins with; for a run that continues, the one it once began with."""
    if given.init_from is not None and verb != "fit":
        raise UserError(f"--init-from is for fit; {verb} takes the model of --ckpt_path")
    if given.init_from is not None and checkpoint is not None and given.value("ckpt_path") != LAST:
        raise UserError(
            "--init-from starts a run from weights of another, and --ckpt_path continues a run with its own: give one"
        )
    configured = [config.pop("init_from", None) for config in given.configs]
    found = next((path for path in (given.init_from, *reversed(configured)) if path is not None), None)
    if found is not None and not (isinstance(found, str | Path) and str(found).strip()):
        raise UserError(f"--init-from takes the path of a trained model, not {found!r}")
    known = None if found is None else str(found)
    if checkpoint is not None:
        before = (read_metadata(checkpoint).get("config") or {}).get("init_from")
        return known or (before if isinstance(before, str) else None)
    if known is not None and verb == "fit":
        check_source(Path(known))
    return known


def _take_tokenizer(given: Given, source: Path, dataset: str) -> None:
    """Encode text with the tokenizer of the imported folder that a run begins with, unless another one is chosen."""
    chosen = class_of(dataset).own_ids or given.value("data.tokenizer") is not None
    if not chosen and is_imported(source) and has_tokenizer(source):
        given.configs.insert(0, {"data": {"tokenizer": "file", "tokenizer_path": str(source)}})


def _complete(given: Given, path: Path, metadata: Mapping[str, Any], verb: str) -> Tokenizer | None:
    """Take what is not given from a checkpoint: its recipe, its settings, and always its tokenizer, if it has one."""
    if given.source is None:
        given.source = metadata["recipe"]
        try:
            check(stored_recipe(path, metadata))
        except RecipeError as error:
            raise LoadError(f"{path}: its recipe is not valid in this installation: {error.problems[0]}") from None
    required_value(metadata, "config", path)
    try:
        settings = settings_of(metadata, given.value)
        if verb == "fit" and given.value("evaluations") is None:
            settings |= stored_evaluations(metadata["config"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    dataset = given.value("data.dataset") or settings["data"].get("dataset")
    tokenizer = tokenizer_for(dataset, path, metadata)
    if tokenizer is not None:
        settings["data"].setdefault("tokenizer", tokenizer.kind)
    given.configs.insert(0, json.loads(json.dumps(settings)))
    return tokenizer


def tokenizer_for(dataset: str | None, path: Path, metadata: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer of a checkpoint, with which text is encoded; None: the ids are the dataset's own, as before.

    Raises:
        UserError: one is a text and the other has token ids of its own.
    """
    trained = (metadata.get("data") or {}).get("dataset")
    if dataset is None or not class_of(dataset).own_ids:
        if metadata.get("tokenizer") is None and trained is not None:
            raise UserError(f"{path}: was trained on {trained!r} without a tokenizer, which dataset {dataset!r} needs")
        return stored_tokenizer(path, metadata)
    if metadata.get("tokenizer") is not None:
        raise UserError(
            f"{path}: was trained on the text of {trained!r}, and the token ids of dataset {dataset!r} are not text: "
            "start a new run from its weights with --init-from"
        )
    return None


def _merged(base: Any, change: Any, path: str = "") -> Any:
    """``change`` over ``base``, key by key; a value that is a mapping, and arguments of another class, start afresh."""
    if not isinstance(base, Mapping) or not isinstance(change, Mapping) or path in MAPPINGS:
        return change
    if change.get("class_path", base.get("class_path")) != base.get("class_path"):
        return change
    within = f"{path}." if path else ""
    return {**base, **{key: _merged(base.get(key), value, within + key) for key, value in change.items()}}
