"""LightningCLI with our module, data, defaults, callbacks and loggers."""

import json
from pathlib import Path
from typing import Any

import yaml
from jsonargparse.typing import register_type
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from registry import RecipeError
from training import callbacks as own
from training.checkpoint_io import AtomicCheckpointIO, write_atomically
from training.cli.request import Request
from training.data.errors import DataError
from training.data.module import TextData
from training.errors import UserError
from training.loggers import FileLogger, WandbRun
from training.module import TrainingModule
from training.optim import OptimizerSettings
from training.recipe_argument import RecipeArgument
from training.run_folder import CHECKPOINTS, RunSettings, folder_of, fresh_folder

register_type(RecipeArgument, serializer=RecipeArgument.dump, deserializer=RecipeArgument.read)

DEFAULTS: dict[str, Any] = {
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 10,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "use_distributed_sampler": False,  # the loaders share each batch among ranks by themselves
}
USUAL_LENGTH = 128  # tokens; long texts cost more than a first run should
VALIDATIONS = 10  # in a run whose steps are counted, where nothing else is said


class TrainingCLI(LightningCLI):
    """The command line of fit, validate, test and predict, without what :mod:`training.cli.request` has taken out.

    Args:
        request: the sorted command line.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.first = rank_zero_only.rank == 0
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
        parser.add_class_arguments(RunSettings, "run")
        parser.add_class_arguments(OptimizerSettings, "optimizer")
        parser.set_defaults({"data.length": min(USUAL_LENGTH, self.request.model.max_length)})
        parser.link_arguments("recipe", "model.recipe")
        parser.link_arguments("optimizer", "model.optimizer", apply_on="instantiate")
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.seed")

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
        self.saved = self._dumped()
        trainer = self.settings.trainer
        if (trainer.gradient_clip_val or 0) < 0:
            raise UserError(f"trainer.gradient_clip_val cannot be {trainer.gradient_clip_val}; 0 is for not clipping")
        if trainer.max_steps == -1 and trainer.max_epochs is None and trainer.max_time is None:
            trainer.max_epochs = 1
        if trainer.val_check_interval is None and trainer.max_steps > 0:
            trainer.val_check_interval = max(1, trainer.max_steps // VALIDATIONS) * trainer.accumulate_grad_batches
        if isinstance(trainer.val_check_interval, int) and trainer.check_val_every_n_epoch == 1:
            trainer.check_val_every_n_epoch = None  # count batches on through the epochs
        if self.settings.data.tokenizer == "bpe" and self.settings.data.vocab_size is None:
            self.settings.data.vocab_size = self.request.model.vocab_size
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
        return config | {"ckpt_path": None, "plugin": self.request.plugins}

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
        self.run: RunSettings = self._get(self.config_init, "run")
        self.folder = self._folder()
        config["default_root_dir"] = config["default_root_dir"] or str(self.folder)
        config["logger"] = self._loggers(config["logger"])
        config["callbacks"] = [*self._callbacks(config), *_listed(config["callbacks"])]
        config["plugins"] = [*_listed(config["plugins"]), AtomicCheckpointIO()]
        self.model.provenance = {"variant": self.request.variant, "config": self.saved, "plugins": self.request.plugins}
        return self.trainer_class(**config)

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

    def _loggers(self, further: Any) -> list[Any]:
        if self.request.verb != "fit":
            return []
        mode = self.run.wandb if further is not False else "disabled"
        about = {key: getattr(self.run, key) for key in ("project", "group", "job_type")}
        weights_and_biases = WandbRun(self.folder, mode, tags=tuple(self.run.tags), name=self.folder.name, **about)
        return [
            FileLogger(self.folder),
            weights_and_biases,
            *(_listed(further) if not isinstance(further, bool) else []),
        ]

    def _callbacks(self, config: dict[str, Any]) -> list[Any]:
        if self.request.verb == "predict":
            return [own.Predictions(self.folder / "predictions.jsonl")]
        if self.request.verb != "fit":
            return []
        guard, meter = own.Guard(), own.Meter()
        saves = config["enable_checkpointing"] is not False
        checkpoints = (
            own.Checkpoints(self.folder / CHECKPOINTS, self.run.save_every, self.run.monitor, guard) if saves else None
        )
        shows = [own.Progress(meter)] if config["enable_progress_bar"] is not False else []
        order = [guard, own.RandomState(self.model.seed), meter, *shows, checkpoints, own.StopOnSignal(checkpoints)]
        return [callback for callback in order if callback is not None]

    def before_fit(self) -> None:
        """Leave beside the run what repeats it."""
        if self.first and not self.trainer.fast_dev_run:
            self.save(self.folder)

    def save(self, folder: Path) -> None:
        """Write `recipe.yaml`, the canonical recipe, and `config.yaml`, from which the run can be repeated."""
        config = yaml.safe_dump(self.saved, sort_keys=False, default_flow_style=False, allow_unicode=True)
        for name, text in (("recipe.yaml", self.request.recipe.to_yaml()), ("config.yaml", config)):
            write_atomically(folder / name, lambda stream, text=text: stream.write(text.encode()))


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
