"""`find-lr`: a learning-rate range test with the recipe, the data and the settings of a run."""

import math
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from blockformer.errors import UserError
from blockformer.files import as_json, write_text
from blockformer.phases import phases
from blockformer.training.callbacks import RandomState, RangeTest, StopOnSignal, WarmStart
from blockformer.training.learning_rate_curve import LearningRateCurve
from blockformer.training.lightning_cli import TrainingCLI
from blockformer.training.run_folder import check_writable

LEAST, MOST = 10, 100_000  # steps
FORMATS = (".csv", ".json")
UNLIMITED: dict[str, Any] = {
    **dict.fromkeys(("min_steps", "min_epochs", "max_time", "val_check_interval", "profiler")),
    **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False),
    "max_epochs": -1,
    "limit_val_batches": 0,
    "num_sanity_val_steps": 0,
    "check_val_every_n_epoch": 1,
    "detect_anomaly": False,  # a gradient that is NaN is a result here
}
"""Settings of the trainer of a run that trains a number of steps and leaves nothing."""


class RangeTestCLI(TrainingCLI):
    """Trains with a growing learning rate instead of a schedule, without validations, and writes no run."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--from", type=float, default=1e-6, help="learning rate of the first step")
        parser.add_argument("--to", type=float, default=1.0, help="learning rate of the last step")
        parser.add_argument("--steps", type=int, default=100, help="optimizer steps")
        parser.add_argument("--out", type=str | None, default=None, help="file for the curve: .csv or .json")

    @property
    def curve(self) -> LearningRateCurve:
        """The steps that were made."""
        return self.range_test.curve

    def before_instantiate_classes(self) -> None:
        """Check the range, the file and the settings.

        Raises:
            UserError: one is wrong.
        """
        self._check_range()
        arguments = self.arguments
        for option, given in (
            ("--ckpt_path", arguments.checkpoint or arguments.named),
            ("--decay-from", arguments.decay_from),
        ):
            if given is not None:
                raise UserError(f"{option}: find-lr tests the start of a run, with initial values or --init-from")
        if self.settings.trainer.fast_dev_run:
            raise UserError("--trainer.fast_dev_run: find-lr writes no run anyway: leave it out")
        super().before_instantiate_classes()

    def _check_range(self) -> None:
        lowest, highest, steps, out = (self.settings[name] for name in ("from", "to", "steps", "out"))
        for option, rate in (("from", lowest), ("to", highest)):
            if not 0 < rate < math.inf:
                raise UserError(f"--{option} {rate}: a learning rate is a number above 0")
        if lowest >= highest:
            raise UserError(f"--from {lowest} must be below --to {highest}")
        if steps < LEAST:
            raise UserError(f"--steps {steps}: a curve needs at least {LEAST} steps")
        if steps > MOST:
            raise UserError(f"--steps {steps}: a curve has at most {MOST:,} steps")
        if out is not None and (Path(out).suffix not in FORMATS or Path(out).is_dir()):
            raise UserError(f"--out {out}: must be a file whose name ends in {' or '.join(FORMATS)}")

    def prepare_trainer(self, config: dict[str, Any]) -> None:
        """Leave out of the trainer's settings what a run keeps, and what the user adds to a run."""
        if (out := self.settings["out"]) is not None and self.first:
            check_writable(Path(out).parent, Path(out).name)
        self.range_test = RangeTest(self.settings["from"], self.settings["to"], self.settings["steps"])
        config |= UNLIMITED | {"max_steps": self.settings["steps"]}
        config["callbacks"] = [RandomState(self.seed), self.range_test, StopOnSignal(None)]
        if self.arguments.init_from is not None:
            config["callbacks"].insert(0, WarmStart(Path(self.arguments.init_from), None))

    def before_fit(self) -> None:
        """Check that data and model fit, and say what is done."""
        if self.first:
            self.model.verify(self.datamodule, self.trainer, training=True)
        phases.begin("testing learning rates")

    def after_fit(self) -> None:
        """Write the curve, if it is asked for."""
        phases.end()
        if self.first and (out := self.settings["out"]) is not None:
            path, curve = Path(out), self.curve
            write_text(path, curve.as_csv() if path.suffix == ".csv" else as_json(curve.as_dict(), indent=1) + "\n")
