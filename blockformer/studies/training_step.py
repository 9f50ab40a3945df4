"""One training step of a variant, as `fit` makes it: to estimate times, and to measure speed."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from blockformer.assembly import build
from blockformer.data.module import TextData
from blockformer.data.options import DATA, chosen_components, default_dataset
from blockformer.data.samples import Batch
from blockformer.inspection.batch import random_batch
from blockformer.studies.fit_settings import DEFAULT_BATCH
from blockformer.training.activation_checkpointing import checkpoint_layers
from blockformer.training.compilation import compile_model
from blockformer.training.objectives import Objective, ObjectiveSettings, default_objective
from blockformer.training.optimizers import OptimizerSettings
from blockformer.training.score import TARGETS
from blocks.models.base import Model
from registry import Recipe

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
TRUE = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}


class TrainingStep:
    """A model, its optimizer and a batch; each call is a step.

    Args:
        recipe: the model.
        fit: the study's settings: batch size, precision, accumulation, clipping, compilation.
        length: tokens of a sequence.
    """

    def __init__(self, recipe: Recipe, fit: Mapping[str, Mapping[str, Any]], length: int) -> None:
        trainer, settings = fit.get("trainer", {}), fit.get("model", {})
        gpu = torch.cuda.is_available() and trainer.get("accelerator") != "cpu"
        self.device = torch.device("cuda" if gpu else "cpu")
        self._precision = str(trainer.get("precision", "32-true"))
        self._parts, self._clip = int(trainer.get("accumulate_grad_batches", 1)), trainer.get("gradient_clip_val")
        self.model: Model = build(recipe).to(self.device, TRUE.get(self._precision, torch.float32)).train()
        checkpoint_layers(self.model, settings.get("checkpointing", "none"))
        compile_model(self.model, settings.get("compile", False))
        named = {"type": None, **fit.get("objective", {})}
        named["type"] = named["type"] or default_objective(self.model.kind)
        self._objective = ObjectiveSettings(**named).objective
        optimizer = OptimizerSettings(**fit.get("optimizer", {}))
        optimizer.choose_trained(self.model)
        self._optimizer = optimizer.make(self.model, fused=self._precision != "16-mixed")
        rows = int(fit.get("data", {}).get("batch_size", DEFAULT_BATCH))
        length = min(length, self.model.length_limit[1])
        drawn = random_batch(self.model, rows, length)
        if not set(self._objective.keys) <= drawn.keys():  # one of a plug-in, whose batches have more
            drawn = _first_batch(self._objective, self.model, {**fit.get("data", {}), "length": length})
        self._batch = {key: value.to(self.device) for key, value in drawn.items()}
        self.tokens = self._parts * int(self._objective.tokens(self._batch))
        """Tokens that a step reads."""

    def __call__(self) -> None:
        """Make a step, and wait until it is done."""
        for _ in range(self._parts):
            with self._autocast():
                loss, sums = self._objective(self.model, self._batch)
                loss = loss / sums[TARGETS] + self.model.auxiliary_loss()
            loss.backward()
        gradients = [one.grad for one in self.model.parameters() if one.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self._clip:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self._clip, norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.model.update()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = AUTOCAST.get(self._precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)


def _first_batch(objective: Objective, model: Model, given: Mapping[str, Any]) -> Batch:
    """The first batch of the data that settings describe."""
    settings = {"dataset": default_dataset(objective.forms), **given}
    if "vocab_size" in DATA.options_of("tokenizer", chosen_components(settings)):
        extra = objective.extra_tokens(settings["length"])
        settings = {"vocab_size": model.vocab_size - len(extra), **settings}
    data = TextData(**settings)
    data.configure(objective=objective)
    return next(iter(data.loader()))


def peak_memory(recipe: Recipe, fit: Mapping[str, Mapping[str, Any]], length: int) -> int:
    """Bytes that are allocated at most while a model is built and makes two steps.

    Args:
        recipe: the model.
        fit: the study's settings.
        length: tokens of a sequence.
    """
    gpu = torch.cuda.is_available() and fit.get("trainer", {}).get("accelerator") != "cpu"
    return peak_of(lambda: _two_steps(recipe, fit, length), gpu=gpu)


def peak_of(run: Callable[[], None], *, gpu: bool) -> int:
    """Bytes that are allocated at most while something runs, beside what is allocated before."""
    if gpu:
        torch.cuda.empty_cache()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - held
    with (
        _quiet_profiler(),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile,
    ):
        run()
    held = peak = 0
    found: Any = profile.profiler
    for event in found.kineto_results.events():
        if event.name() == "[memory]":  # an allocation, or with a negative size the end of one
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def _two_steps(recipe: Recipe, fit: Mapping[str, Mapping[str, Any]], length: int) -> None:
    step = TrainingStep(recipe, fit, length)
    step()  # creates the optimizer's state
    step()


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    """Keep the profiler from writing to standard error."""
    before = os.environ.get("KINETO_LOG_LEVEL")
    os.environ["KINETO_LOG_LEVEL"] = "99"
    try:
        yield
    finally:
        if before is None:
            del os.environ["KINETO_LOG_LEVEL"]
        else:
            os.environ["KINETO_LOG_LEVEL"] = before
