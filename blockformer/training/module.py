"""The LightningModule: one model, one objective, one optimizer; results do not depend on how a batch is divided."""

from collections.abc import Callable
from typing import Any, Self, cast

import lightning.pytorch as L
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from torch import Tensor
from torch.optim import Optimizer

from blockformer.assembly.builder import materialise
from blockformer.assembly.checkpoint import METADATA
from blockformer.data.loader import TrainingLoader
from blockformer.data.module import TextData
from blockformer.data.processes import data_processes
from blockformer.data.samples import Batch
from blockformer.training.activation_checkpointing import Checkpointing, checkpoint_layers
from blockformer.training.checkpoint_state import check_state
from blockformer.training.compatibility import (
    check_batch,
    check_data,
    check_device,
    check_precision,
    check_trainer,
    is_described,
)
from blockformer.training.compilation import Compile, compile_model
from blockformer.training.metadata import run_metadata, verify_same_facts, verify_same_model
from blockformer.training.objectives import Objective, check_model, objective_for
from blockformer.training.optimizers import OptimizerSettings
from blockformer.training.parallel.shards import Shards, local_gradients
from blockformer.training.parallel.strategy import ShardedStrategy
from blockformer.training.recipe_argument import RecipeArgument
from blockformer.training.score import TARGETS, TOKENS, no_sums
from blockformer.training.source_scores import SourceScores
from blockformer.training.step_count import align_epochs, batches_per_epoch, total_steps


class TrainingModule(L.LightningModule):
    """Trains the model of a recipe.

    Every target has the same weight, on any rank and in any part of an accumulated batch: the gradient is that of
    (sum of losses over the global batch) / (targets in the global batch). Auxiliary losses of the model, such as those
    of routers, are weighted by the targets of each part and are not included in the reported loss.

    Args:
        recipe: the recipe of the model.
        optimizer: the optimizer and the schedule.
        objective: what the model learns to predict; None: the usual one for its kind.
        compile: compile the model with `torch.compile`: as a whole (true), or each layer by itself, where equal layers
            share the compiled code (layer).
        seed: seed of the initial values; None: 0, and on the command line that of `--seed_everything`.
        checkpointing: what is computed again in the backward pass instead of kept: nothing (none), each layer (layer),
            or each layer without its products with weights and its attention (selective). No result depends on it.
    """

    def __init__(
        self,
        recipe: RecipeArgument,
        optimizer: OptimizerSettings,
        objective: Objective | None = None,
        compile: Compile = False,
        seed: int | None = None,
        checkpointing: Checkpointing = "none",
    ) -> None:
        super().__init__()
        self.recipe, self.settings, self.seed = recipe.recipe, optimizer, seed or 0
        self._how: tuple[Compile, Checkpointing] = compile, checkpointing
        self.model = recipe.take_model()  # on the meta device; configure_model creates the parameters
        optimizer.choose_trained(self.model)
        self.objective = objective or objective_for(self.model.kind)
        check_model(self.objective, self.model)
        self.shards: Shards | None = None  # set where no process holds the whole model
        self.provenance: dict[str, Any] = {}  # plain data that the caller adds to every checkpoint
        self.total_steps = 0
        self.tokens_seen = no_sums(torch.device("cpu"))[TOKENS]
        self.evaluation: dict[str, float] = {}
        self.evaluation_figures: dict[str, float] = {}  # of the evaluations that belong to the validation in progress
        self.validated_step = -1  # the step of the last validation; -1: none yet
        self.window: Tensor | None = None  # score sums of the current optimizer step
        self.gradient_norm: Tensor | None = None
        self.before_clipping: list[Callable[[], None]] = []  # called when a step's gradients and their norm are there
        self.skips_non_finite = False  # whether a step whose loss or gradient is not finite changes nothing
        self.skipped = False
        self._unit = torch.ones(())  # divisor of the losses of this step so far
        self._stepped = False
        self._seen: set[str] = set()  # stages whose first batch has been checked
        self._evaluated: SourceScores | None = None

    def setup(self, stage: str) -> None:
        self.verify(getattr(self.trainer, "datamodule", None), self.trainer, training=stage == "fit")
        if stage == "fit":
            self.before_clipping = []
            align_epochs(self.trainer)
            data: Any = getattr(self.trainer, "datamodule", None)
            repeats = bool(getattr(self.trainer, "overfit_batches", 0))
            if repeats and isinstance(loader := data.train_dataloader(), TrainingLoader):
                loader.repeated = batches_per_epoch(self.trainer)
        checkpoint_layers(self.model, self._how[1])
        compile_model(self.model, self._how[0])  # the inner module only: Lightning's methods cannot be compiled

    def verify(self, data: Any, trainer: L.Trainer, *, training: bool) -> None:
        """Check that data, trainer and model fit each other.

        Raises:
            MismatchError: they do not; the message is one line.
            DataError: the data are too few for a batch.
        """
        check_data(data, self.model, self.objective)
        if training:
            if isinstance(data, TextData):
                data.batches_per_epoch()  # refuses too little text before anything is written
            check_trainer(trainer)
            self.objective.check(self.model, data)
            check_precision(str(trainer.precision), self.model)
            check_device("cpu" if isinstance(trainer.accelerator, CPUAccelerator) else "", self.model)

    def _check_first(self, batch: Any, stage: str) -> None:
        """Check the first batch of a stage, of a data module that does not describe itself.

        Raises:
            MismatchError: the model cannot take it; the message is one line.
        """
        described = is_described(getattr(self.trainer, "datamodule", None))
        if stage not in self._seen and not described:
            check_batch(batch, self.model, self.objective)
        self._seen.add(stage)

    def configure_model(self) -> None:
        """Create the parameters with their initial values; with a sharded strategy only this process's part of them."""
        if not any(parameter.is_meta for parameter in self.model.parameters()):
            return
        strategy = self.trainer.strategy
        if isinstance(strategy, ShardedStrategy):
            self.shards = strategy.divide(self.model, self.recipe, self.seed)
        else:
            materialise(self.model, "cpu")
            self.model.initialise(self.seed)

    def cpu(self) -> Self:
        """Skip on meta parameters, so that the error of a run refused before it had parameters is not masked."""
        return self if any(parameter.is_meta for parameter in self.parameters()) else super().cpu()

    def configure_optimizers(self) -> Optimizer:
        self.total_steps = total_steps(self.trainer, self.settings)
        scaled = self.trainer.precision == "16-mixed"  # whose gradient scaler must unscale first
        fused = self.device.type in ("cpu", "cuda") and not scaled
        return self.settings.make(self.model, fused=fused, shards=self.shards)

    def on_train_start(self) -> None:
        self.settings.apply(self.trainer.optimizers[0], self.model)
        self.tokens_seen = self.tokens_seen.to(self.device, no_sums(self.device).dtype)

    @property
    def compiled(self) -> bool:
        """Whether layers run as compiled code, which calls no hooks that are added later."""
        return self._how[0] is not False

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next optimizer step."""
        return self.settings.lr * self._factor

    @property
    def _factor(self) -> float:
        return self.settings.factor(self.trainer.global_step + 1, self.total_steps)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self._check_first(batch, "train")
        if self._stepped:
            self.window, self._stepped = None, False
        optimizer: Any = self.trainer.optimizers[0]
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * self._factor
        if self.window is None and hasattr(optimizer, "begin_step"):
            optimizer.begin_step()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.trainer.global_step == self.trainer.max_steps:
            self.trainer.should_stop = True  # the trainer stops here anyway; with this flag it also validates

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, sums = self.objective(self.model, batch)
        here = sums[TARGETS].to(loss.dtype, copy=True)  # a copy, because the reduction over ranks works in place
        loss = loss + self.model.auxiliary_loss(self._over_ranks) * here
        sums = self._over_ranks(sums)
        if self.window is None:
            self._unit = sums[TARGETS].clamp(min=1).to(loss.dtype)
        self.window = sums if self.window is None else self.window + sums
        return loss * (data_processes(self.trainer).world / self._unit)  # DDP and FSDP2 divide by this number

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Rescale accumulated gradients to the targets of all parts of the step, which are known only now.

        Until here they are sum(losses) / (targets of the first part * number of parts).
        """
        assert self.window is not None
        self._stepped = True
        if self.shards is not None:
            self.shards.add_partial(self)
        self.tokens_seen += self.window[TOKENS]
        parts = self.trainer.accumulate_grad_batches
        if parts > 1:
            total = self.window[TARGETS].clamp(min=1).to(self._unit.dtype)
            for gradient in self._gradients():
                gradient.mul_(self._unit * parts / total)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then let the model update its own state (such as router biases), before anything is saved."""
        super().optimizer_step(*args, **kwargs)
        if hasattr(optimizer := self.trainer.optimizers[0], "end_step"):
            cast("Any", optimizer).end_step()
        self.model.update()

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients as the trainer is set, and record their norm before clipping."""
        gradients = self._gradients()
        self.gradient_norm = torch.nn.utils.get_total_norm(gradients) if self.shards is None else self.shards.norm(self)
        for observe in self.before_clipping:
            observe()
        assert self.window is not None
        # both are those of all processes, so all decide alike
        self.skipped = self.skips_non_finite and not bool(self.gradient_norm.isfinite() & self.window.isfinite().all())
        if self.skipped:
            for parameter in self.model.parameters():
                parameter.grad = None
            return
        if not gradient_clip_val or gradient_clip_algorithm not in (None, "norm"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif self.shards is None:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), gradient_clip_val, self.gradient_norm)
        else:
            factor = (gradient_clip_val / (self.gradient_norm + 1e-6)).clamp(max=1.0)
            for gradient in gradients:
                gradient.mul_(factor)

    def _gradients(self) -> list[Tensor]:
        return list(local_gradients(self.model))  # for changes in place

    def on_validation_epoch_start(self) -> None:
        data = getattr(self.trainer, "datamodule", None)
        sources = data.sources if isinstance(data, TextData) else ()
        self._evaluated = SourceScores(self.objective, self.model, sources, self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._check_first(batch, "test" if self.trainer.testing else "validation")
        assert self._evaluated is not None
        self._evaluated.add(batch)

    def on_validation_epoch_end(self) -> None:
        self._report("val")
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self.validated_step = self.trainer.global_step

    on_test_epoch_start = on_validation_epoch_start

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The objective's `predictions` and `targets`, such as the most probable token at every place."""
        self._check_first(batch, "predict")
        return self.objective.predict(self.model, batch)

    def _report(self, stage: str) -> None:
        assert self._evaluated is not None
        figures = self._evaluated.figures(self._over_ranks)
        self.evaluation = {f"{stage}/{name}": value for name, value in figures.items()}
        self.evaluation |= self.evaluation_figures
        # MetricsLogger writes the loggers' row; this is for callbacks that monitor a figure and for Lightning's table.
        self.log_dict(self.evaluation, logger=False, on_epoch=True, batch_size=1)

    def _over_ranks(self, sums: Tensor) -> Tensor:
        """Sums over all processes that read different data."""
        if data_processes(self.trainer).world == 1:
            return sums
        group = None if self.shards is None else self.shards.data.get_group()
        return self.trainer.strategy.reduce(sums, group, reduce_op="sum")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[METADATA] = run_metadata(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        verify_same_model(checkpoint[METADATA], self.recipe)
        check_state(checkpoint, self.trainer, self)
        if self.trainer.state.fn == "fit":
            verify_same_facts(checkpoint[METADATA], self.objective.facts())
        if checkpoint[METADATA].get("warm_start"):
            self.provenance["warm_start"] = checkpoint[METADATA]["warm_start"]
        self.validated_step = checkpoint[METADATA].get("validated_step", -1)
        self.tokens_seen = no_sums(torch.device("cpu"))[TOKENS] + (checkpoint[METADATA].get("tokens") or 0)
