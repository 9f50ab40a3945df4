"""Check the parsed settings of a command against each other, and set those that depend on others."""

from pathlib import Path
from typing import Any

from blockformer.assembly.checkpoint import read_metadata
from blockformer.data.module import idle_settings
from blockformer.data.options import DATA
from blockformer.data.settings import settings_of
from blockformer.errors import UserError
from blockformer.option_groups import in_words
from blockformer.training.evaluations import check_intervals
from blockformer.training.fit_arguments import FitArguments
from blockformer.training.objectives import ObjectiveSettings
from blockformer.training.trainer_settings import check_settings
from blockformer.training.watch.attention import attending
from blockformer.training.watch.pictures import require_matplotlib
from blocks.models.base import Model

LARGEST_SEED = 2**32 - 1  # of numpy
VALIDATIONS = 10  # per run with max_steps, unless val_check_interval is set


def check_seeds(settings: Any) -> None:
    """Refuse seeds that no generator takes.

    Raises:
        UserError: one is out of range.
    """
    for name, seed in (("seed_everything", settings.seed_everything), ("model.seed", settings.model.seed)):
        if type(seed) is int and not 0 <= seed <= LARGEST_SEED:
            raise UserError(f"--{name} {seed}: a seed is a whole number from 0 to {LARGEST_SEED}")


def complete_data(settings: Any, arguments: FitArguments) -> None:
    """Check and complete the settings of the data, which belong to what repeats the run.

    Raises:
        UserError: they ask for another tokenizer or other classes than the checkpoint's.
    """
    data = settings.data
    _check_tokenizer(data, arguments)
    if arguments.checkpoint is not None:
        _reset_idle_settings(data, arguments)
        _take_classes(data, arguments.checkpoint)
    learned = "vocab_size" in DATA.options_of("tokenizer", arguments.components.chosen(DATA.name))
    if learned and data.vocab_size is None and arguments.checkpoint is None:
        data.vocab_size = arguments.model.vocab_size - _extra_tokens(settings)


def _extra_tokens(settings: Any) -> int:
    """How many tokens of its own the objective needs, whose ids come after those of the tokenizer."""
    objective = ObjectiveSettings(**settings.objective.as_dict()).objective
    return len(objective.extra_tokens(settings.data.length))


def complete_training(settings: Any, arguments: FitArguments, seed: int) -> None:
    """Check and complete the settings of the trainer and the model.

    Args:
        settings: of the verb.
        arguments: of the command.
        seed: of the initial values, where none is given.

    Raises:
        UserError: one is wrong.
    """
    trainer = settings.trainer
    if settings.model.seed is None:
        settings.model.seed = seed
    check_settings(arguments.verb, trainer, arguments.model)
    if arguments.verb == "fit" and settings.run.attention_every:
        _check_pictures(arguments.model)
    if arguments.verb == "fit" and settings.run.profile and trainer.profiler == "pytorch":
        raise UserError("run.profile and trainer.profiler pytorch use the same profiler of torch: give one of them")
    if settings.weights_only is False:
        raise UserError("--weights_only false: a checkpoint is always read as plain data, so leave it out")
    if trainer.max_steps == -1 and trainer.max_epochs is None and trainer.max_time is None:
        trainer.max_epochs = 1
    if trainer.val_check_interval is None and trainer.max_steps > 0:
        trainer.val_check_interval = max(1, trainer.max_steps // VALIDATIONS) * trainer.accumulate_grad_batches
    if isinstance(trainer.val_check_interval, int):
        check_intervals(arguments.evaluations, max(1, trainer.val_check_interval // trainer.accumulate_grad_batches))
    if isinstance(trainer.val_check_interval, int) and trainer.check_val_every_n_epoch == 1:
        trainer.check_val_every_n_epoch = None  # count batches on through the epochs


def _check_pictures(model: Model) -> None:
    """Refuse pictures of attention weights where there are none, or nothing draws them."""
    if not attending(model):
        raise UserError("run.attention_every: no mixer of this model has attention weights; leave it out")
    require_matplotlib("run.attention_every")


def _check_tokenizer(data: Any, arguments: FitArguments) -> None:
    """Refuse another tokenizer than the checkpoint's."""
    stored = arguments.tokenizer
    if stored is None:
        return
    before = {"tokenizer": stored.kind, **arguments.tokenizer_settings}
    different: list[str] = []
    for name, parameter in settings_of(vars(data)).items():
        if name in ("tokenizer", *arguments.components.tokenizer_options):
            learned = (stored.vocab_size,) if name == "vocab_size" else ()
            if data[name] not in (None, before.get(name, parameter.default), *learned):
                different.append(name)
    if different:
        asked = ", ".join(f"data.{name} {data[name]}" for name in different)
        raise UserError(
            f"{asked}: {arguments.checkpoint} has its own tokenizer ({stored.kind}, {stored.vocab_size} ids) and is "
            f"scored and continued with it: leave {in_words([f'data.{name}' for name in different])} out, or start a "
            "run with another tokenizer with --init-from"
        )


def _take_classes(data: Any, checkpoint: Path) -> None:
    """Number the classes as the checkpoint does."""
    stored = (read_metadata(checkpoint).get("data") or {}).get("classes")
    if stored is None or "classes" not in vars(data):
        return
    if data.classes not in (None, stored):
        raise UserError(
            f"data.classes {in_words(data.classes)}: {checkpoint} was trained on the classes {in_words(stored)}, in "
            "this order: leave data.classes out, or start a run with others with --init-from"
        )
    data.classes = stored


def _reset_idle_settings(data: Any, arguments: FitArguments) -> None:
    """Forget what the checkpoint says about its own dataset, where the user has chosen another."""
    assert arguments.checkpoint is not None
    stored = (read_metadata(arguments.checkpoint).get("config") or {}).get("data") or {}
    defaults = settings_of(vars(data))
    for name in idle_settings(vars(data)):
        if name in defaults and data[name] == stored.get(name):
            data[name] = defaults[name].default
