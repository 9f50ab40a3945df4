"""The options of `fit`, `validate`, `test` and `predict`, and how they are read."""

import json
from argparse import ArgumentError
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from blockformer.errors import UserError
from blockformer.training.dependent_settings import check_seeds
from blockformer.training.fit_arguments import FitArguments
from blockformer.training.module import TrainingModule
from blockformer.training.number_types import prefer_integers
from blockformer.training.parse_errors import readable
from blockformer.training.recipe_argument import RecipeArgument
from blockformer.training.run_folder import RunSettings

DEFAULTS: dict[str, Any] = {
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 10,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "use_distributed_sampler": False,  # the loaders share each batch among ranks by themselves
}
USUAL_LENGTH = 128  # tokens; long texts cost more than a first run should


class SettingsCLI(LightningCLI):
    """Lightning's command line with our options; subclasses say what is done with them.

    Args:
        arguments: the verb, the checked recipe and the settings.

    Raises:
        UserError: there is no such option, or a value is wrong.
    """

    def __init__(self, arguments: FitArguments) -> None:
        self.arguments = arguments
        super().__init__(
            TrainingModule,
            arguments.components.settings_class("data"),
            save_config_callback=None,
            trainer_defaults=DEFAULTS,
            seed_everything_default=0,
            args=_as_lightning_takes(arguments),
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def subcommands(self) -> dict[str, set[str]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The verb alone: a parser for each of the four would take as long as everything else before the first step."""
        verb = self.arguments.verb
        return {verb: LightningCLI.subcommands()[verb]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--recipe", type=RecipeArgument, help="the model: a file, or the name of a built-in recipe")
        parser.add_argument(
            "--init-from",
            type=str,
            default=None,
            help="start from the weights of a model, which may have another recipe",
        )
        parser.add_argument(
            "--decay-from",
            type=str,
            default=None,
            help="continue a run in a new one, in which the learning rate falls",
        )
        parser.add_argument(
            "--evaluations",
            type=dict[str, Any] | None,
            default=None,
            help="what is measured in validations, by label: '{greedy: {type: generation, every: 500}}'; "
            "see `blockformer blocks evaluation`",
        )
        parser.add_class_arguments(RunSettings, "run")
        for group in ("objective", "optimizer"):
            parser.add_class_arguments(self.arguments.components.settings_class(group), group)
        length = min(USUAL_LENGTH, self.arguments.model.length_limit[1])
        parser.set_defaults({"recipe": self.arguments.recipe, "data.length": length})
        parser.link_arguments("recipe", "model.recipe")
        parser.link_arguments("optimizer", "model.optimizer", apply_on="instantiate")
        parser.link_arguments(
            "objective", "model.objective", compute_fn=lambda settings: settings.objective, apply_on="instantiate"
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse a command line or a mapping.

        Raises:
            UserError: there is no such option, or its value is wrong.
        """
        try:
            self.config = parser.parse_object(args) if isinstance(args, dict) else parser.parse_args(args)
        except ArgumentError as error:
            known = [name for action in self._parser(self.arguments.verb)._actions for name in action.option_strings]
            raise UserError(readable(str(error), known, self.arguments.components)) from error
        check_seeds(self.settings)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: the base class would let a checkpoint override the command line, and import what it names."""

    @property
    def settings(self) -> Any:
        """The parsed settings of the verb."""
        return self.config[self.arguments.verb]

    @property
    def seed(self) -> int:
        """The seed of everything that has none of its own, such as dropout."""
        seed = self.settings.seed_everything
        return seed if type(seed) is int else 0

    def refuse_idle(self, group: str, names: Sequence[str], cause: str) -> None:
        """Refuse settings that were changed and have no effect.

        Raises:
            UserError: there is one.
        """
        for name in names:
            if self.settings[group][name] != self._parser(self.arguments.verb).get_default(f"{group}.{name}"):
                raise UserError(f"{group}.{name} has no effect with {cause}; remove it")

    def dumped(self) -> dict[str, Any]:
        """The configuration that repeats this run under another name, as plain data."""
        text = self._parser(self.arguments.verb).dump(self.settings, skip_none=False, format="json")
        config = json.loads(text)
        config["run"] |= {"name": None, "variant": self.arguments.variant}
        config.pop("config", None)
        sources = {"init_from": self.arguments.init_from, "decay_from": self.arguments.decay_from}
        return config | {"ckpt_path": None, "plugin": self.arguments.plugins, **sources}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        prefer_integers(parser)
        if subcommand != "fit":
            parser.add_argument(
                "--out", type=str | None, default=None, help="folder for the results (default: the run's)"
            )
        return parser


def _as_lightning_takes(arguments: FitArguments) -> Any:
    """Settings from Python as a mapping; from a command line as options, with configuration files before them."""
    if arguments.options is None:
        return {"subcommand": arguments.verb, arguments.verb: arguments.settings()}
    configs = [part for config in arguments.configs for part in ("--config", json.dumps(config))]
    return [arguments.verb, *configs, *arguments.options]
