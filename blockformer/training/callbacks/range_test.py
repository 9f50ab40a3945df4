"""A learning-rate range test: training steps at rates that grow from a low to a high one."""

from lightning.pytorch import LightningModule, Trainer

from blockformer.phases import phases
from blockformer.training.callbacks.step_callback import StepCallback
from blockformer.training.learning_rate_curve import LearningRateCurve
from blockformer.training.module import TrainingModule
from blockformer.training.optimizers.base import Schedule


class Ramp(Schedule):
    """An exponential rise of the learning rate of an optimizer, between two rates.

    Args:
        rates: the learning rate of each step.
        lr: the optimizer's, whose share a factor is.
    """

    def __init__(self, rates: list[float], lr: float) -> None:
        self._rates, self._lr = rates, lr

    def factor(self, step: int, warmup: int, total: int) -> float:
        return self._rates[min(step, len(self._rates)) - 1] / self._lr


class RangeTest(StepCallback):
    """Replaces the schedule, and stops the training when the loss has diverged; Smith 2017, arXiv:1506.01186.

    Every parameter group keeps its ratio to the learning rate. The loss of a step is that of all its batches, of all
    processes, so all of them stop alike.

    Args:
        lowest: learning rate of the first step.
        highest: that of the last.
        steps: number of steps, at least 2.
    """

    def __init__(self, lowest: float, highest: float, steps: int) -> None:
        growth = highest / lowest
        self._rates = [lowest * growth ** (step / (steps - 1)) for step in range(steps)]
        self._losses: list[float] = []

    @property
    def curve(self) -> LearningRateCurve:
        """The steps that were made."""
        return LearningRateCurve(self._rates[: len(self._losses)], self._losses, len(self._rates))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, TrainingModule)
        pl_module.settings.schedule, pl_module.settings.warmup_steps = Ramp(self._rates, pl_module.settings.lr), 0

    def after_step(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        assert isinstance(module, TrainingModule)
        assert module.window is not None
        self._losses.append(module.objective.figures(module.window, module.model)["loss"])
        phases.at(f": step {step}/{len(self._rates)}, lr {self._rates[step - 1]:.1e}, loss {self._losses[-1]:.4f}")
        trainer.should_stop = trainer.should_stop or self.curve.diverged
