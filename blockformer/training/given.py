"""What the user gave for a run, on a command line or from Python."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blockformer.errors import UserError
from blockformer.training.run_folder import CHECKPOINTS, RECIPE
from blockformer.training.stored_settings import Settings
from registry.plugins import load_named
from registry.recipe import Overrides
from registry.strict_yaml import Map, read_yaml

GROUPS = ("trainer", "run", "data", "model", "objective", "optimizer")


@dataclass
class Given:
    """What the user gave, on a command line or from Python, before a checkpoint fills in the rest.

    Args:
        source: the recipe: a file, a name or a mapping.
        overrides: changes to the recipe, in order.
        configs: of configuration files, as `{group: {option: value}}`; later ones win.
        settings: those that win over `configs`; on a command line only the ones that are needed before it is parsed.
        options: arguments for jsonargparse; None: called from Python.
        config_folder: the run's folder that the last configuration file lies in.
        init_from: a trained model to begin with.
        decay_from: a trunk to continue.
    """

    source: str | Path | Mapping[str, Any] | None = None
    overrides: Overrides = ()
    configs: list[Settings] = field(default_factory=list)
    settings: Settings = field(default_factory=dict)
    options: list[str] | None = None
    config_folder: Path | None = None
    init_from: str | None = None
    decay_from: str | None = None

    def add_config(self, path: Path, group: str | None = None) -> None:
        """Take in a configuration file; its recipe goes to `source`, and the modules of its `plugin` are imported.

        Args:
            path: the file.
            group: the group of settings that it holds; None: all, by group.

        Raises:
            RecipeError: the file cannot be read.
            UserError: its recipe is neither a name, a path nor a mapping.
            PluginError: a module that it names cannot be imported.
        """
        config = read_yaml(path)
        config = config if group is None else Map({group: config}, {}, config.mark)
        source = config.pop("recipe", None)
        if source is not None and not isinstance(source, str | Map):
            raise UserError(f"{path}: recipe must be a name, a path or a mapping")
        self.source = self.source if source is None else source
        for group in GROUPS:
            if not isinstance(config.get(group), Mapping | None):
                raise UserError(f"{path}: {group} must be a mapping of options to values, not {config[group]!r}")
        plugins = config.pop("plugin", None) or []
        plugins = [plugins] if isinstance(plugins, str) else plugins
        if not isinstance(plugins, list) or not all(isinstance(module, str) for module in plugins):
            raise UserError(f"{path}: plugin must be a module's name or a list of them, not {plugins!r}")
        _import(plugins)
        self.configs.append(json.loads(json.dumps(config)))  # plain data, without line numbers
        if (path.parent / CHECKPOINTS).is_dir() or (path.parent / RECIPE).is_file():
            self.config_folder = path.parent

    def value(self, name: str) -> Any:
        """The value of an option such as `run.name`, from the last that sets it; None if none does."""
        group, _, key = name.rpartition(".")
        for config in reversed([*self.configs, self.settings]):
            section = (config.get(group) or {}) if group else config
            if section.get(key) is not None:
                return section[key]
        return None


def _import(modules: Sequence[str]) -> None:
    if modules and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    load_named(modules)
