"""LightningCLI with our module, data, defaults, callbacks and loggers."""

import json
import sys
from pathlib import Path
from typing import Any

from jsonargparse.typing import register_type
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from blockformer.assembly.capabilities import position_warnings
from blockformer.cli.equipment import callbacks_of, listed, loggers_of
from blockformer.cli.report import keep_evaluation, save_settings, say_begin, say_end, say_remarks
from blockformer.cli.request import Request
from blockformer.data.module import TextData
from blockformer.data.processes import is_first
from blockformer.errors import DataError, UserError
from blockformer.training.callbacks import Predictions, WarmStart
from blockformer.training.callbacks.checkpoints import AtomicCheckpointIO
from blockformer.training.callbacks.step_callback import is_dry_run
from blockformer.training.compatibility import remarks_on_data
from blockformer.training.module import TrainingModule
from blockformer.training.optimizer import OptimizerSettings
from blockformer.training.parallel import plan_for
from blockformer.training.recipe_argument import RecipeArgument
from blockformer.training.run_folder import RunSettings, folder_of, fresh_folder
from registry import RecipeError

register_type(RecipeArgument, serializer=RecipeArgument.dump, deserializer=RecipeArgument.read)

DEFAULTS: dict[str, Any] = {
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 10,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "use_distributed_sampler": False,  # the loaders share each batch among ranks by themselves
}
USUAL_LENGTH = 128  # tokens; long texts cost more than a first run should
PREDICTIONS = "predictions.jsonl"
VALIDATIONS = 10  # in a run whose steps are counted, where nothing else is said


class TrainingCLI(LightningCLI):
    """The command line of fit, validate, test and predict, without what :mod:`blockformer.cli.request` has taken out.

    Args:
        request: the sorted command line.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.first = is_first()
        super().__init__(
            TrainingModule,
            TextData,
            save_config_callback=None,
            trainer_defaults=DEFAULTS,
            seed_everything_default=0,
            args=[request.verb, "--recipe", json.dumps(request.recipe.dump()), *request.arguments],
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--recipe", type=RecipeArgument, help="the model: a file or the name of an installed recipe"
        )
        parser.add_argument(
            "--init-from", type=str, default=None, help="begin with what a trained model of another recipe has learned"
        )
        parser.add_class_arguments(RunSettings, "run")
        parser.add_class_arguments(OptimizerSettings, "optimizer")
        model = self.request.model
        dataset = "cldr" if model.kind == "encoder_decoder" else "docstrings"
        parser.set_defaults({"data.dataset": dataset, "data.length": min(USUAL_LENGTH, model.max_length)})
        parser.link_arguments("recipe", "model.recipe")
        parser.link_arguments("optimizer", "model.optimizer", apply_on="instantiate")
        parser.link_arguments("seed_everything", "model.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        parsers = self._parser(self.request.verb)
        self.request.options = [option for action in parsers._actions for option in action.option_strings]
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Nothing: the base class would let a checkpoint overrule the command line, and import what it names."""

    @property
    def settings(self) -> Any:
        """The parsed settings of the verb."""
        return self.config[self.request.verb]

    def before_instantiate_classes(self) -> None:
        data, trainer = self.settings.data, self.settings.trainer
        if data.tokenizer == "bpe" and data.vocab_size is None:
            data.vocab_size = self.request.model.vocab_size
        self.saved = self._dumped()
        if (trainer.gradient_clip_val or 0) < 0:
            raise UserError(f"trainer.gradient_clip_val cannot be {trainer.gradient_clip_val}; 0 is for not clipping")
        if trainer.max_steps == -1 and trainer.max_epochs is None and trainer.max_time is None:
            trainer.max_epochs = 1
        if trainer.val_check_interval is None and trainer.max_steps > 0:
            trainer.val_check_interval = max(1, trainer.max_steps // VALIDATIONS) * trainer.accumulate_grad_batches
        if isinstance(trainer.val_check_interval, int) and trainer.check_val_every_n_epoch == 1:
            trainer.check_val_every_n_epoch = None  # count batches on through the epochs
        if self.request.checkpoint is not None:
            self.settings.ckpt_path = str(self.request.checkpoint)

    def instantiate_classes(self) -> None:
        """Make module, data and trainer.

        Raises:
            UserError: one of them refuses its settings.
        """
        try:
            super().instantiate_classes()
        except (UserError, RecipeError, DataError):
            raise
        except (ValueError, TypeError, ImportError, MisconfigurationException) as error:
            raise UserError(" ".join(str(error).split())) from error

    def _dumped(self) -> dict[str, Any]:
        """The configuration that repeats this run under another name, as plain data."""
        text = self._parser(self.request.verb).dump(self.settings, skip_none=False, format="json")
        config = json.loads(text)
        config["run"] |= {"name": None, "variant": self.request.variant}
        config.pop("config", None)
        return config | {"ckpt_path": None, "plugin": self.request.plugins, "init_from": self.request.init_from}

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
        self.run: RunSettings = self._get(self.config_init, "run")
        self.folder = self._folder()
        config["default_root_dir"] = config["default_root_dir"] or str(self.folder)
        own: list[Any] = []
        if self.request.verb == "fit":
            config["logger"] = loggers_of(self.run, self.folder, config["logger"])
            own = callbacks_of(self.run, self.folder, self.model.seed, config)
            if self.request.init_from is not None and self.request.checkpoint is None:
                own.insert(0, WarmStart(Path(self.request.init_from), self.folder))
        else:
            config["logger"] = False
            config["enable_progress_bar"] = config["enable_progress_bar"] is not False and sys.stdout.isatty()
            own = [Predictions(self.folder / PREDICTIONS)] if self.request.verb == "predict" else []
        config["callbacks"] = [*own, *listed(config["callbacks"])]
        config["plugins"] = [*listed(config["plugins"]), AtomicCheckpointIO()]
        self.model.provenance = {"variant": self.request.variant, "config": self.saved, "plugins": self.request.plugins}
        trainer = self.trainer_class(**config)
        self.plan = plan_for(trainer.strategy, self.model.model)
        return trainer

    def _folder(self) -> Path:
        checkpoint = self.request.checkpoint
        home = folder_of(checkpoint) if checkpoint is not None else None
        if home is not None and (self.run.name is None or self.request.verb != "fit"):
            return home
        named = Path(self.run.root) / (self.run.name or self.request.variant)
        if self.request.verb != "fit":
            return named
        continues = home is not None and home.resolve() == named.resolve()
        return named if continues else fresh_folder(self.run, self.request.variant, first=self.first)

    def before_fit(self) -> None:
        """Leave beside the run what repeats it."""
        if self.first:
            self.model.verify(self.datamodule, self.trainer, training=True)
        if self.first and not is_dry_run(self.trainer):
            save_settings(self.folder, self.request.recipe.to_yaml(), self.saved)
            say_begin(self.request.variant, self.model.model, self.folder)
            model = self.model.model
            say_remarks([*position_warnings(model), *remarks_on_data(self.datamodule, model)])
            if self.plan is not None:
                print(self.plan, flush=True)

    def after_fit(self) -> None:
        """Say where everything is."""
        if self.first and not is_dry_run(self.trainer):
            say_end(self.folder, self.trainer.loggers)

    def after_validate(self) -> None:
        """Keep the figures."""
        if self.first:
            keep_evaluation(self.folder, self.request.verb, Path(self.settings.ckpt_path), self.model.evaluation)

    after_test = after_validate

    def after_predict(self) -> None:
        """Say where the predictions are."""
        print(f"predictions: {self.folder / PREDICTIONS}")
