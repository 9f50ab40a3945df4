"""Where `fit` trains: a new folder, the folder of a run that continues, or one whose run has no checkpoint yet."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from blockformer.assembly.checkpoint import LoadError, read_metadata, verify
from blockformer.errors import UserError
from blockformer.files import remove_drafts
from blockformer.training.run_folder import (
    CHECKPOINTS,
    CONFIG,
    LAST,
    RESULTS,
    RunSettings,
    checkpoints_in,
    default_name,
    folder_of,
    newest_checkpoint,
    set_aside,
)
from blockformer.training.run_lock import RunLock, lock_new

_SHARED = "BLOCKFORMER_RUN_FOLDER"  # tells the processes that a run starts which folder it has


@dataclass
class Place:
    """Where a run trains, and what it continues from.

    Args:
        folder: the run's folder.
        checkpoint: the checkpoint to continue from; None: the run begins.
        lock: held while the run trains, by its first process; None in others and in a dry run.
        note: a line for the user about what was found in the folder.
    """

    folder: Path
    checkpoint: Path | None = None
    lock: RunLock | None = None
    note: str | None = None


def place_of_fit(
    run: RunSettings,
    variant: str,
    checkpoint: Path | None,
    named: Path | None,
    settings: str,
    *,
    forks: bool = False,
    first: bool,
    dry: bool,
) -> Place:
    """Find, and in the first process lock and prepare, the folder of a run.

    A folder with a run that has no checkpoint yet begins anew; its files are set aside. The command of an unfinished
    run continues it when it is given again.

    Args:
        run: name and root.
        variant: begins the name where none is given.
        checkpoint: what the run continues from.
        named: the folder of the run that `--ckpt_path last` names, if it has no checkpoint.
        settings: the content of the run's `config.yaml`.
        forks: whether the settings name the checkpoint that another run began with.
        first: whether this is the first process, which writes.
        dry: whether nothing is to be written.

    Raises:
        UserError: another run has the folder, or is training in it, or a folder inside it is a link.
    """
    home = folder_of(checkpoint) if checkpoint is not None else None
    folder = Path(run.root) / run.name if run.name else home or named
    continues = home is not None and folder is not None and folder.resolve() == home.resolve()
    if dry:
        return Place(folder or Path(run.root) / default_name(variant), checkpoint)
    if not first:
        if folder is None:
            return Place(Path(os.environ.get(_SHARED) or run.root), checkpoint)
        newest = newest_checkpoint(folder)  # the first process refuses one of another run
        return Place(folder, newest or checkpoint if forks else checkpoint or newest)
    lock = lock_new(Path(run.root), default_name(variant)) if folder is None else RunLock(folder)
    os.environ[_SHARED] = str(lock.folder)
    try:
        _check_links(lock.folder)
        remove_drafts(lock.folder, but=RESULTS)
        remove_drafts(lock.folder / CHECKPOINTS)  # also of a run that has ended, which nothing else visits again
        if continues:
            assert checkpoint is not None
            return Place(lock.folder, checkpoint, lock, _keep_newest_state(lock.folder, checkpoint))
        return _new_run(lock, checkpoint, settings, asked=named is not None, forks=forks)
    except BaseException:
        lock.release()
        raise


def _check_links(folder: Path) -> None:
    """Check that no folder of a run is a link, through which a run from elsewhere would replace files of others.

    Raises:
        UserError: one is.
    """
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and path.is_dir():
            raise UserError(f"{path}: is a link to a folder, and a run writes into its own: put a folder in its place")


def _new_run(lock: RunLock, checkpoint: Path | None, settings: str, *, asked: bool, forks: bool) -> Place:
    """A run that does not continue the one in its folder, as far as its user knows."""
    folder = lock.folder
    if checkpoints_in(folder):
        if (checkpoint is None or forks) and (newest := _unfinished(folder, settings)) is not None:
            return Place(folder, newest, lock, f"{folder} holds a run with the same settings, which continues")
        raise UserError(
            f"{folder} holds a run already: continue it with --ckpt_path last, or begin another with --run.name"
        )
    if (aside := set_aside(folder)) is not None:
        note = f"{folder} holds a run without a checkpoint, which starts again; its earlier files are in {aside}"
    else:
        note = f"{folder} has no checkpoint yet: the run begins at step 0" if asked else None
    return Place(folder, checkpoint, lock, note)


def _unfinished(folder: Path, settings: str) -> Path | None:
    """The newest checkpoint of a run with these settings; None if it is finished or has other settings."""
    config, newest = folder / CONFIG, newest_checkpoint(folder)
    if newest is None or not config.is_file() or config.read_bytes() != settings.encode():
        return None
    verify(newest)
    return None if read_metadata(newest).get("finished") else newest


def _keep_newest_state(folder: Path, checkpoint: Path) -> str | None:
    """Keep the newest state of a run that continues from an earlier one, and say so; None: it continues from that."""
    last, metrics = folder / CHECKPOINTS / f"{LAST}.ckpt", folder / "metrics.jsonl"
    if not last.is_file() or last.samefile(checkpoint):
        return None
    try:
        of = f"step-{int(read_metadata(last)['step'])}"
    except (LoadError, KeyError, TypeError):
        of = "damaged"
    kept = [last.with_name(f"{LAST}.{of}.ckpt"), folder / f"metrics.{of}.jsonl"]
    last.replace(kept[0])
    if metrics.is_file():
        shutil.copy2(metrics, kept[1])
    return f"{folder} continues from {checkpoint.name}; its newest state is kept in {kept[0]} and {kept[1].name}"
