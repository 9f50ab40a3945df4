"""Read what is ours from the command line of `fit` and its siblings, before jsonargparse reads the rest.

Recipes must not pass through jsonargparse: it would merge overrides by rules of its own, and could train another model
than was asked for without a word. So `--recipe`, `--recipe.KEY` and the `recipe` of configuration files are taken out
here, and the finished recipe goes in again as one opaque value.
"""

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blockformer import assembly
from blockformer.assembly.checkpoint import LoadError, read_metadata
from blockformer.errors import UserError
from blockformer.training.init_from import check_source
from blockformer.training.run_folder import CHECKPOINTS, RunSettings, find_checkpoint
from blocks.models.base import Model
from registry import Recipe, load_recipe
from registry.plugins import load_named
from registry.strict_yaml import Map, read_yaml

BUILT_IN = "blocks."
INIT_FROM = ("--init-from", "--init_from")


@dataclass
class Request:
    """A command line, sorted.

    Args:
        verb: fit, validate, test or predict.
        recipe: the recipe, checked.
        model: its model, without memory.
        variant: what to call it.
        arguments: what is left for jsonargparse, in its order.
        checkpoint: the file that `--ckpt_path` means, if it was given.
        init_from: what the run began with or begins with, if that is a trained model.
        options: the options that there are, once the parser is made.
    """

    verb: str
    recipe: Recipe
    model: Model
    variant: str
    arguments: list[str]
    checkpoint: Path | None = None
    init_from: str | None = None
    options: list[str] = field(default_factory=list)

    @property
    def plugins(self) -> list[str]:
        """The modules outside this project that registered blocks of this recipe."""
        modules = {spec.entry.block.__module__ for _, spec in self.recipe.spec.walk()}
        return sorted(module for module in modules if not module.startswith(BUILT_IN))


@dataclass
class _Given:
    """The pieces, as they are found."""

    source: Any = None
    variant: str | None = None
    overrides: list[str] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)
    configs: list[dict[str, Any]] = field(default_factory=list)
    config_folder: Path | None = None
    init_from: str | None = None

    def value(self, group: str, key: str) -> Any:
        """What the command line, or else the last configuration, says about one option."""
        option = f"--{group}.{key}" if group else f"--{key}"
        for place in range(len(self.rest) - 1, -1, -1):
            name, equals, value = self.rest[place].partition("=")
            if name == option:
                return value if equals else self.rest[place + 1] if place + 1 < len(self.rest) else None
        for config in reversed(self.configs):
            section = config.get(group) or {} if group else config
            if section.get(key) is not None:
                return section[key]
        return None


def read_request(verb: str, arguments: Sequence[str]) -> Request:
    """Sort a command line.

    Raises:
        RecipeError: something is wrong with the recipe or a configuration file; all of it is named.
        UserError: there is no recipe, or no such checkpoint.
        PluginError: a module that a configuration file names cannot be imported.
    """
    given = _sorted(arguments)
    checkpoint = _checkpoint(given)
    init_from = _init_from(given, verb, checkpoint)
    if checkpoint is None and verb != "fit":
        raise UserError(f"{verb} which model? Say --ckpt_path with a checkpoint, or last or best of a run")
    if checkpoint is not None:
        _complete(given, checkpoint)
    if given.source is None:
        raise UserError("which model? Say --recipe with a file or a name, such as gpt2; see `blockformer recipes`")
    recipe = load_recipe(given.source, given.overrides)
    model = assembly.check(recipe)
    variant = given.value("run", "variant") or given.variant or recipe.name
    configs = [part for config in given.configs for part in ("--config", json.dumps(config))]
    return Request(verb, recipe, model, variant, [*configs, *given.rest], checkpoint, init_from)


def _sorted(arguments: Sequence[str]) -> _Given:
    given, items = _Given(), iter(arguments)
    named: list[str] = []
    for item in items:
        key, equals, value = item.partition("=")
        if not (key in ("--recipe", "--config", "-c", *INIT_FROM) or key.startswith("--recipe.")):
            given.rest.append(item)
            continue
        value = value if equals else next(items, None)
        if value is None:
            raise UserError(f"{key} needs a value")
        if key == "--recipe":
            named.append(value)
        elif key.startswith("--recipe."):
            given.overrides.append(f"{key.removeprefix('--recipe.')}={value}")
        elif key in INIT_FROM:
            given.init_from = value
        else:
            _add_config(given, Path(value))
    if len(named) > 1:
        raise UserError(f"--recipe is given {len(named)} times; a variant is a file that says `extends: {named[0]}`")
    if named:
        given.source, given.variant = named[0], None
    return given


def _add_config(given: _Given, path: Path) -> None:
    """Take in a configuration file without its recipe, and import the modules that its recipe needs."""
    config = read_yaml(path)
    source = config.pop("recipe", None)
    if source is not None:
        if not isinstance(source, str | Map):
            raise UserError(f"{path}: recipe must be a name, a path or a mapping")
        given.source = source
    _import(config.pop("plugin", None) or [])
    given.configs.append(dict(config))
    is_run = (path.parent / CHECKPOINTS).is_dir()
    given.config_folder = path.parent if is_run else given.config_folder


def _import(modules: Sequence[str]) -> None:
    if modules and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    load_named(modules)


def _checkpoint(given: _Given) -> Path | None:
    wanted = given.value("", "ckpt_path")
    if wanted is None:
        return None
    settings = RunSettings(name=given.value("run", "name"), root=given.value("run", "root") or "runs")
    path = find_checkpoint(str(wanted), settings, given.config_folder)
    try:
        read_metadata(path)
    except LoadError as error:
        raise LoadError(f"{error}{_alternative(path)}") from error
    return path


def _init_from(given: _Given, verb: str, checkpoint: Path | None) -> str | None:
    """The trained model that a run begins with; where it continues, what it once began with."""
    if given.init_from is not None and verb != "fit":
        raise UserError(f"--init-from is for fit; {verb} takes the model of --ckpt_path")
    if given.init_from is not None and checkpoint is not None:
        raise UserError(
            "--init-from begins a run with another one's weights, and --ckpt_path continues a run with its own: say one"
        )
    said = [config.pop("init_from", None) for config in given.configs]
    known = given.init_from or next((path for path in reversed(said) if path is not None), None)
    if checkpoint is not None:
        return known or (read_metadata(checkpoint).get("config") or {}).get("init_from")
    if known is not None and verb == "fit":
        check_source(Path(known))
    return known


def _alternative(damaged: Path) -> str:
    """The newest whole checkpoint beside a damaged one. It is named, not taken: the user decides about going back."""
    whole: list[tuple[int, str]] = []
    for path in damaged.parent.glob("*.ckpt") if damaged.exists() else ():
        with contextlib.suppress(LoadError):
            whole.append((read_metadata(path)["step"], str(path)))
    return "; {1} (step {0}) is whole: --ckpt_path {1} continues from there".format(*max(whole)) if whole else ""


def _complete(given: _Given, checkpoint: Path) -> None:
    """Where neither a recipe nor a configuration is given, the checkpoint's own are meant."""
    if given.source is not None and given.configs:
        return
    metadata = read_metadata(checkpoint)
    if given.source is None:
        given.source = metadata["recipe"]
    if not given.configs:
        given.configs.append(harmless(metadata.get("config") or {}))


# A checkpoint may come from a stranger, and some settings of the trainer name code to import; these do not.
_HARMLESS = {
    "trainer": (
        *("max_steps", "max_epochs", "accumulate_grad_batches", "gradient_clip_val", "precision", "log_every_n_steps"),
        *("val_check_interval", "check_val_every_n_epoch", "limit_train_batches", "limit_val_batches"),
    ),
    "run": ("variant", "save_every", "monitor", "project", "group", "job_type", "tags"),
}


def harmless(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a checkpoint's configuration that only sets numbers, names and choices."""
    kept = {key: config[key] for key in ("data", "model", "optimizer", "seed_everything") if key in config}
    for group, keys in _HARMLESS.items():
        section = config.get(group) or {}
        kept[group] = {key: section[key] for key in keys if key in section}
    return json.loads(json.dumps(kept))
