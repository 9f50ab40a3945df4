"""`blockformer fit`, `validate`, `test` and `predict`: Lightning's command line around a recipe."""

import shlex
import sys
from collections.abc import Callable, Sequence

from blockformer.cli.parser import CommandFailedError, last_value
from blockformer.phases import phases
from blockformer.signals import Stopped
from blockformer.training.output import kept_output

# As in training/components.py, which loads torch.
NAMING = ("data.dataset", "data.tokenizer", "objective.type", "optimizer.type", "optimizer.schedule")


def main(arguments: Sequence[str]) -> int:
    """Run one of the four verbs.

    Args:
        arguments: the verb and what follows it.

    Returns:
        0.

    Raises:
        CommandFailedError: the run failed (status 1), or a signal stopped it after a step (128 + the signal's number).
        Stopped: a signal stopped it before the first step, or stopped another verb.
        RecipeError, UserError, DataError: the user can correct what is wrong.
    """
    verb, *rest = arguments
    if {"-h", "--help"} & set(rest) and rest[-1] != "all":
        print(page(verb) + _options_of_components(rest), end="")
        return 0
    if rest[-2:] == ["--help", "all"]:
        rest[-2:] = ["--recipe", "gpt2", "--help"]  # the parser needs some recipe

    def work() -> None:
        from blockformer.cli.fit_command_line import read_arguments
        from blockformer.training.lightning_cli import TrainingCLI

        TrainingCLI(read_arguments(verb, rest))

    return run_trainer(arguments, work)


def run_trainer(arguments: Sequence[str], work: Callable[[], object]) -> int:
    """Do something with the trainer, and turn the end of it into an exit status or an exception of the command.

    Args:
        arguments: the verb and what follows it.
        work: what is done, in every process; it imports what it needs, so that `--help` needs no torch.

    Returns:
        0.

    Raises:
        CommandFailedError, Stopped, RecipeError, UserError, DataError: as for :func:`main`.
    """
    _announce(arguments)
    from blockformer.data.processes import is_first
    from blockformer.errors import UserError
    from blockformer.training.callbacks import InterruptedRun, NonFiniteError
    from blockformer.training.parallel.launcher import LostProcessError, leave_to_parent
    from blockformer.training.process_state import quiet_process
    from registry import RecipeError

    try:
        with kept_output() as log, quiet_process():
            log.note(f"$ blockformer {shlex.join(arguments)}")
            work()
    except Stopped as stop:
        if is_first():
            raise
        leave_to_parent(stop.signum)
    except (UserError, RecipeError):
        if is_first():
            raise
        return 2  # the first process prints what is wrong
    except (InterruptedRun, NonFiniteError, LostProcessError, OSError) as error:
        if isinstance(error, OSError) and not error.strerror:
            raise
        if is_first():  # a launcher that sees another one fail would kill the first
            raise CommandFailedError(_message(error), getattr(error, "exit_code", 1)) from error
    finally:
        phases.end()
    return 0


def _announce(arguments: Sequence[str]) -> None:
    """Say that libraries are loaded, unless they are, or the output is to be read by a program."""
    if "lightning" not in sys.modules and not any(word.startswith(("--print_config", "--help")) for word in arguments):
        phases.begin("loading libraries")


def _message(error: Exception) -> str:
    if hasattr(error, "exit_code"):
        return str(error)  # stopped, not failed
    reason = f"{error.filename or 'a file'}: {error.strerror}" if isinstance(error, OSError) else error
    return f"the run failed: {reason}"


def _options_of_components(arguments: Sequence[str]) -> str:
    """Help on the options of the components that the arguments choose."""
    found = [(option, name) for option in NAMING if (name := last_value(arguments, f"--{option}")) is not None]
    if not found:
        return ""
    from blockformer.training.components import GROUPS
    from registry.schema import describe
    from registry.text import as_yaml

    parts: list[str] = []
    for option, name in found:
        group, _, key = option.partition(".")
        block = describe(GROUPS[group][0].entry(key, name))
        parts.append(f"\nthe {block.slot} {name}: {block.summary}\n")
        parts += (
            f"  --{group}.{one.name} {as_yaml(one.default)}  {one.description} ({one.type})\n"
            for one in block.parameters
        )
    return "".join(parts)


def page(verb: str) -> str:
    """The short help of a verb, printed without importing Lightning."""
    return HELP.format(verb=verb, meaning=MEANINGS[verb])


HELP = """\
usage: blockformer {verb} --recipe RECIPE [options]

{meaning}

the model
  --recipe RECIPE            a file, or the name of a built-in recipe
  --recipe.KEY VALUE         change the recipe, e.g. --recipe.decoder.depth 4; may be repeated, applied in order
  --plugin MODULE            import a module that registers blocks

the run
  --config FILE              settings as YAML, {{group: {{option: value}}}}; may hold the recipe; may be repeated
  --ckpt_path last           resume from last, best or a file; other settings default to the checkpoint's
  --init-from PATH           start from the weights of another model: a checkpoint, run or import
  --decay-from PATH          continue a run of constant learning rate in a new one, in which it falls
  --run.name NAME            name of the run folder, in --run.root (runs); default: recipe and time
  --run.save_every 200       steps between checkpoints; --run.keep_last 1 and --run.keep_best 1: how many stay
  --run.checkpoint auto      file, or sharded: each process writes its part while training goes on
  --out FOLDER               validate, test, predict: where results go; default: the checkpoint's run, or beside it
  --run.wandb auto           auto, online, offline or disabled; --run.project, .group, .job_type, .tags
  --seed_everything 0        seed of initial values and dropout; --data.seed 0: of the order of the data

the data
  --data.dataset docstrings  default for pairs: cldr; `blockformer blocks dataset` lists all
  --data.files FILES         of the datasets text and pairs; --data.dataset NAME --help lists the options of others
  --data.tokenizer bpe       bytes, unigram, wordpiece or file; --data.tokenizer NAME --help lists its options
  --data.length 128          tokens in a sequence
  --data.batch_size 32       sequences in a batch, summed over all processes

training
  --trainer.max_steps N      optimizer steps; or --trainer.max_epochs N; default: one epoch
  --optimizer.type adamw     adamw, muon, lion, adafactor, sgd or schedule_free
  --optimizer.lr 1e-3        peak learning rate, reached after --optimizer.warmup_steps 100
  --optimizer.schedule cosine  cosine, linear, inverse_sqrt, constant, wsd or sequential
  --optimizer.weight_decay 0.1  of matrices only
  --optimizer.train NAMES    the only parameters to train; default: all, or those of the adapters
  --optimizer.freeze NAMES   parameters that are not trained, such as "embedding.*"; --optimizer.groups: own rates
  --objective.type causal_lm  default: by the kind of the model; `blockformer blocks objective` lists all
  --objective.label_smoothing 0, --objective.z_loss 0 and --model.compile true
  --trainer.accumulate_grad_batches 1, --trainer.gradient_clip_val 1.0, --trainer.val_check_interval N
  --trainer.devices 2 --trainer.strategy ddp (or fsdp2, tensor_parallel)
  --trainer.accelerator auto, --trainer.precision bf16-mixed

`blockformer {verb} --help all` lists every option, and `--optimizer.type NAME --help` those of an optimizer;
--print_config prints all settings as a configuration file.
Exit status: 0; 1 if the run failed; 2 if an argument is wrong; 130, 143 or 129 if Ctrl-C, SIGTERM or SIGHUP stopped it.
"""
MEANINGS = {
    "fit": "Train the model that a recipe describes.",
    "validate": "Score a checkpoint (--ckpt_path) on the validation data.",
    "test": "Score a checkpoint (--ckpt_path) on the test data.",
    "predict": "Write the predictions of a checkpoint (--ckpt_path) for the test data to a file.",
}
