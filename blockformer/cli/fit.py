"""`blockformer fit`, `validate`, `test` and `predict`: Lightning's command line around a recipe."""

from collections.abc import Sequence

from blockformer.cli.parser import CommandFailedError


def main(arguments: Sequence[str]) -> int:
    """Run one of the four.

    Args:
        arguments: the verb and what follows it.

    Returns:
        0.

    Raises:
        CommandFailedError: the run failed (status 1), or a signal stopped it (128 + the signal's number).
        RecipeError, UserError, DataError: the user can correct what is wrong.
    """
    verb, *rest = arguments
    if {"-h", "--help"} & set(rest) and rest[-1] != "all":
        print(page(verb), end="")
        return 0
    from blockformer.cli.fit_arguments import read_arguments  # now, so that --help answers at once
    from blockformer.data.processes import is_first
    from blockformer.errors import UserError
    from blockformer.training.callbacks import InterruptedRun, NonFiniteError
    from blockformer.training.lightning_cli import TrainingCLI
    from blockformer.training.process_state import quiet_process
    from registry import RecipeError

    if rest[-2:] == ["--help", "all"]:
        rest[-2:] = ["--recipe", "gpt2", "--help"]  # any recipe will do to make the parser
    try:
        with quiet_process():
            TrainingCLI(read_arguments(verb, rest))
    except InterruptedRun as stop:
        return _failed(stop, f"{stop}; continue with --ckpt_path last", stop.exit_code)
    except NonFiniteError as error:
        return _failed(error, f"the run failed: {error}", 1)
    except OSError as error:
        if not is_first() or not error.strerror:
            raise
        return _failed(error, f"the run failed: {error.filename or 'a file'}: {error.strerror}", 1)
    except (UserError, RecipeError):
        if is_first():
            raise
        return 2  # the first process prints what is wrong
    return 0


def _failed(error: BaseException, message: str, status: int) -> int:
    """Fail in the first process only: a launcher that sees another one fail would kill the first."""
    from blockformer.data.processes import is_first

    if is_first():
        raise CommandFailedError(message, status) from error
    return 0


def page(verb: str) -> str:
    """The short help of one of the four, which answers without waiting for Lightning."""
    return HELP.format(verb=verb, meaning=MEANINGS[verb])


HELP = """\
usage: blockformer {verb} --recipe RECIPE [options]

{meaning}

the model
  --recipe RECIPE            a file, or the name of an installed recipe
  --recipe.KEY VALUE         change it, as in --recipe.decoder.depth 4; may be repeated, applies in order
  --plugin MODULE            import a module that registers blocks

the run
  --config FILE              settings as YAML, {{group: {{option: value}}}}; may hold the recipe; may be repeated
  --ckpt_path last           continue; or best, or a file. Settings that aren't given are the checkpoint's
  --init-from PATH           begin with what a trained model of another recipe learned: a checkpoint, run or import
  --run.name NAME            the folder, under --run.root (runs); recipe and time unless given
  --run.save_every 200       steps between checkpoints
  --run.wandb auto           auto, online, offline or disabled; --run.project, .group, .job_type, .tags
  --seed_everything 0        of initial values and dropout; --data.seed 0 is of the data's order

the data
  --data.dataset docstrings  docstrings, cldr, text or pairs; cldr if there is a source to translate
  --data.files FILES         for text and pairs
  --data.tokenizer bpe       bpe or bytes
  --data.length 128          tokens in a row
  --data.batch_size 32       rows in a batch, of all processes together

training
  --trainer.max_steps N      or --trainer.max_epochs N; one epoch unless given
  --optimizer.lr 1e-3        peak, after --optimizer.warmup_steps 100
  --optimizer.schedule cosine  cosine, inverse_sqrt or constant
  --optimizer.weight_decay 0.1  of matrices
  --model.label_smoothing 0  and --model.compile true
  --trainer.accumulate_grad_batches 1, --trainer.gradient_clip_val 1.0, --trainer.val_check_interval N
  --trainer.devices 2 --trainer.strategy ddp (or fsdp2, tensor_parallel)
  --trainer.accelerator auto, --trainer.precision bf16-mixed

`blockformer {verb} --help all` lists every option; --print_config prints all settings as a configuration file.
Exit status: 0; 1 if the run failed; 2 if something given is wrong; 143 or 130 if SIGTERM or Ctrl-C stopped the run.
"""
MEANINGS = {
    "fit": "Train the model that a recipe describes.",
    "validate": "Score a checkpoint (--ckpt_path) on the validation data.",
    "test": "Score a checkpoint (--ckpt_path) on the test data.",
    "predict": "Write what a checkpoint (--ckpt_path) predicts for the test data.",
}
