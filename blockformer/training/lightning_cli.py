"""`fit`, `validate`, `test` and `predict`: Lightning's command line with our module, data, callbacks and loggers."""

import contextlib
import sys
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from blockformer.assembly.capabilities import position_warnings
from blockformer.assembly.checkpoint import read_metadata
from blockformer.data.processes import is_first, read_rank
from blockformer.errors import DataError, UserError
from blockformer.phases import phases
from blockformer.training.callbacks import EvaluationPhase, Predictions, WarmStart
from blockformer.training.callbacks.checkpoints import AtomicCheckpointIO
from blockformer.training.callbacks.evaluations import check_evaluations
from blockformer.training.callbacks.non_finite import REMEDY, NonFiniteError
from blockformer.training.callbacks.step_callback import is_dry_run
from blockformer.training.compatibility import notes_on_data, remarks_on_data
from blockformer.training.default_callbacks import callbacks_of, listed, loggers_of, profiler_of
from blockformer.training.dependent_settings import complete_data, complete_training
from blockformer.training.fit_arguments import FitArguments, tokenizer_for
from blockformer.training.fit_loop import FitLoop
from blockformer.training.json_lines import append_row
from blockformer.training.messages import print_end_of_fit, print_evaluation
from blockformer.training.metadata import check_steps_left, earlier_data
from blockformer.training.output import LOG, run_log
from blockformer.training.parallel.heartbeat import watch_processes
from blockformer.training.parallel.launcher import (
    Launcher,
    LostProcessError,
    lost_process,
    take_processes_of_starter,
    use_our_launcher,
)
from blockformer.training.parallel.strategy import plan_for
from blockformer.training.process_state import keep_handlers
from blockformer.training.run_folder import (
    EVALUATIONS,
    PREDICTIONS,
    RunSettings,
    check_writable,
    folder_of,
    results_folder,
    save_settings,
    settings_text,
)
from blockformer.training.run_place import Place, place_of_fit
from blockformer.training.settings_cli import SettingsCLI
from blockformer.training.signature import sign
from blockformer.training.step_count import total_steps
from blockformer.training.trainer_settings import check_precision_given
from registry import RecipeError
from registry.text import printable

SAVING = ("save_every", "checkpoint", "keep_last", "keep_best", "monitor")


class TrainingCLI(SettingsCLI):
    """Lightning's command line around one recipe; constructing it runs fit, validate, test or predict.

    Args:
        arguments: the verb, the checked recipe and the settings.

    Raises:
        UserError: a setting is wrong, or settings do not fit each other.
    """

    def __init__(self, arguments: FitArguments) -> None:
        read_rank()
        self.first = is_first()
        self.place: Place | None = None
        self._made = False  # whether a folder for results was
        try:
            super().__init__(arguments)
        finally:
            if self.place is not None and self.place.lock is not None:
                self.place.lock.release()
            if self._made:
                with contextlib.suppress(OSError):
                    self.folder.rmdir()  # if it is empty

    def before_instantiate_classes(self) -> None:
        """Check the settings against each other, and set those that depend on others."""
        complete_data(self.settings, self.arguments)
        if self.settings.trainer.enable_checkpointing is False:
            self.refuse_idle("run", SAVING, "trainer.enable_checkpointing false")
        self.saved = self.dumped()
        complete_training(self.settings, self.arguments, self.seed)

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
        if self.arguments.tokenizer is not None:
            self.datamodule.use(self.arguments.tokenizer)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the verb.

        Raises:
            UserError: Lightning finds only now that settings do not fit each other or the data.
            LostProcessError: another process of the run has ended.
            NonFiniteError: `trainer.detect_anomaly` has found a gradient that is NaN.
        """
        try:
            phases.begin("preparing the data")
            super()._run_subcommand(subcommand)
        except MisconfigurationException as error:
            raise UserError(" ".join(str(error).split())) from error
        except RuntimeError as error:
            if "returned nan values" in str(error):  # what trainer.detect_anomaly finds
                raise NonFiniteError(f"{' '.join(str(error).split())} {REMEDY}") from error
            if (reason := lost_process(error, self.trainer)) is None:
                raise
            raise LostProcessError(reason) from error
        finally:
            phases.end()
            if isinstance(launcher := self.trainer.strategy.launcher, Launcher):
                launcher.kill_all()

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
        self.run: RunSettings = self._get(self.config_init, "run")
        take_processes_of_starter(config)
        self.prepare_trainer(config)
        config["plugins"] = [*listed(config["plugins"]), AtomicCheckpointIO()]
        self.model.provenance = {
            "variant": self.arguments.variant,
            "config": self.saved,
            "plugins": self.arguments.plugins,
            "signature": self._signature,
        }
        trainer = self.trainer_class(**config)
        check_precision_given(self.settings.trainer.precision, trainer)
        trainer.fit_loop = FitLoop(trainer)
        use_our_launcher(trainer)
        keep_handlers(trainer)
        watch_processes(trainer, self.run.timeout)
        self.plan = plan_for(trainer.strategy, self.model.model)
        return trainer

    def prepare_trainer(self, config: dict[str, Any]) -> None:
        """Complete the trainer's settings with the folder, the callbacks and the loggers of the verb."""
        self.folder = self._fit_folder(config) if self.arguments.verb == "fit" else self._results_folder(config)
        config["default_root_dir"] = config["default_root_dir"] or str(self.folder)
        config["profiler"] = profiler_of(config["profiler"], self.folder)
        own: list[Any] = []
        if self.arguments.verb == "fit":
            config["logger"] = loggers_of(self.run, self.folder, config["logger"])
            settings = self.run, self.folder, self.seed, self.model.settings.ema
            own = callbacks_of(*settings, config, self.arguments.evaluations)
            if self.arguments.init_from is not None and self.arguments.checkpoint is None:
                own.insert(0, WarmStart(Path(self.arguments.init_from), self.folder))
        else:
            config["logger"] = False
            wanted, terminal = config["enable_progress_bar"] is not False, sys.stdout.isatty()
            config["enable_progress_bar"] = wanted and terminal
            own = [EvaluationPhase(wanted and not terminal)]
            if self.arguments.verb == "predict" and not config["fast_dev_run"]:
                own.append(Predictions(self.folder / PREDICTIONS))
        config["callbacks"] = [*own, *listed(config["callbacks"])]

    @property
    def _signature(self) -> str | None:
        return sign(self.saved["data"], self.saved["objective"])

    def _fit_folder(self, config: dict[str, Any]) -> Path:
        """The run's folder, which this process holds until the run ends."""
        arguments, dry = self.arguments, bool(config["fast_dev_run"])
        settings = settings_text(self.saved, self._signature)
        self.place = place_of_fit(
            self.run,
            arguments.variant,
            arguments.checkpoint,
            arguments.named,
            settings,
            forks=arguments.decay_from is not None,
            first=self.first,
            dry=dry,
        )
        if (found := self.place.checkpoint) is not None and found != arguments.checkpoint:
            arguments.checkpoint = found
            arguments.tokenizer = tokenizer_for(arguments.dataset, found, read_metadata(found))
        if self.place.note and self.first:
            print(printable(self.place.note), flush=True)
        return self.place.folder

    def _results_folder(self, config: dict[str, Any]) -> Path:
        """Where the results of a checkpoint are written, which is checked before the work."""
        assert self.arguments.checkpoint is not None
        folder = results_folder(self.arguments.checkpoint, self._get(self.config_init, "out"))
        if self.first and not config["fast_dev_run"]:
            self._made = check_writable(folder, PREDICTIONS if self.arguments.verb == "predict" else EVALUATIONS)
        return folder

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        checkpoint = self.arguments.checkpoint
        return super()._prepare_subcommand_kwargs(subcommand) | {"ckpt_path": checkpoint and str(checkpoint)}

    def before_fit(self) -> None:
        """Write what repeats the run into its folder, and print what is trained."""
        if not self.first:
            return
        self.model.verify(self.datamodule, self.trainer, training=True)
        check_evaluations(
            self.arguments.evaluations, self.trainer, self.model, self.datamodule, monitor=self.run.monitor
        )
        if is_dry_run(self.trainer):
            return
        phases.end()
        if self.arguments.checkpoint is not None:
            self._check_checkpoint(self.arguments.checkpoint)
        run_log().open(self.folder / LOG)
        recipe, model = self.model.recipe, self.model.model
        save_settings(self.folder, recipe.to_yaml(), settings_text(self.saved, self._signature))
        kind = f"{model.kind}, {model.size:,} parameters"
        if model.trained_size < model.size:
            kind += f", {model.trained_size:,} of them trained"
        print(printable(f"{self.arguments.variant}: {kind}; the run's folder is {self.folder}"), flush=True)
        for remark in (*position_warnings(model), *remarks_on_data(self.datamodule, model), *self._repetitions()):
            print(f"note: {printable(remark)}", file=sys.stderr, flush=True)
        if self.plan is not None:
            print(self.plan, flush=True)
        phases.begin("starting")

    def _repetitions(self) -> list[str]:
        """How often the run reads each source of a mixture, where its length is known."""
        steps = total_steps(self.trainer, self.model.settings, self.datamodule)
        epochs = self.datamodule.source_epochs(steps * self.trainer.accumulate_grad_batches)
        read = ", ".join(f"{name} {times:.2f} times" for name, times in epochs.items())
        return [f"in {steps:,} steps the sources are read: {read}"] if steps and read else []

    def _check_checkpoint(self, checkpoint: Path) -> None:
        """Refuse to continue a run that has no steps left or other data; record data that it had before."""
        metadata = read_metadata(checkpoint)
        home = folder_of(checkpoint)
        elsewhere = home is None or home.resolve() != self.folder.resolve()
        total = total_steps(self.trainer, self.model.settings, self.datamodule)
        check_steps_left(metadata, total, checkpoint, elsewhere=elsewhere)
        earlier = earlier_data(metadata, self.datamodule.facts(), checkpoint, other=self.run.other_data)
        if earlier:
            self.model.provenance["earlier_data"] = earlier

    def after_fit(self) -> None:
        """Print where the results are."""
        if not self.first or is_dry_run(self.trainer):
            return
        phases.end()
        print_end_of_fit(self.trainer, self.folder)

    def before_validate(self) -> None:
        """Print what is to be known about the text that is scored."""
        split = "validation" if self.arguments.verb == "validate" else "test"
        if self.first:
            self.model.verify(self.datamodule, self.trainer, training=False)
            for note in notes_on_data(self.datamodule, split):
                print(f"note: {printable(note)}", file=sys.stderr, flush=True)

    before_test = before_predict = before_validate

    def after_validate(self) -> None:
        """Print the figures, and add them to the run's `evaluations.jsonl`."""
        phases.end()
        if not self.first:
            return
        verb, checkpoint, figures = self.arguments.verb, str(self.arguments.checkpoint), self.model.evaluation
        print_evaluation(verb, checkpoint, figures)
        if not is_dry_run(self.trainer):
            append_row(self.folder / EVALUATIONS, {"verb": verb, "checkpoint": checkpoint, **figures})

    after_test = after_validate

    def after_predict(self) -> None:
        """Print where the predictions are."""
        if self.first and not is_dry_run(self.trainer):
            print(f"predictions: {printable(self.folder / PREDICTIONS)}")
