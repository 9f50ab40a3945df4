"""A run's folder: its name, chosen once and found again by a run that continues, and the files that repeat the run."""

import math
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

import yaml

from blockformer.errors import UserError
from blockformer.files import write_text
from blockformer.training.run_lock import LOCK
from blockformer.training.score import BETTER
from registry.strict_yaml import parse_text
from registry.text import shortened

CHECKPOINTS = "checkpoints"
MONITORS = sorted(f"val/{name}" for name in BETTER)
LAST, BEST = "last", "best"
SETTINGS = RECIPE, CONFIG = "recipe.yaml", "config.yaml"
RESULTS = EVALUATIONS, PREDICTIONS = "evaluations.jsonl", "predictions.jsonl"  # may be written while the run trains
ATTEMPT = "attempt-"
_SIGNED = "# signature of the data: "
LONGEST_NAME = 200  # bytes; file systems allow 255, of which temporary files need some


@dataclass
class RunSettings:
    """What a user may say about the run as such; these fields are the flags `--run.*`.

    Args:
        name: the run's folder, under `root`; the variant and the time when not given.
        root: the folder that runs lie in.
        variant: what to call this model in names and tables; the recipe's name when not given.
        save_every: optimizer steps between two versions of `checkpoints/last.ckpt`; 0: only at the end.
        checkpoint: `file` is one file, which the first process writes while training waits; `sharded` a file and a
            folder with a part of each process, written while training goes on, in which no process ever has the whole
            model. `auto`: sharded with fsdp2 and tensor_parallel.
        keep_last: versions of `checkpoints/last.ckpt` that are kept, as `step-N.ckpt`; 1: only `last.ckpt`.
        keep_best: checkpoints with the best figures that are kept, as `best-step-N.ckpt`; 1: only `best.ckpt`.
        monitor: `checkpoints/best.ckpt` is where this figure was best: val/accuracy, val/f1, val/pearson or
            val/spearman highest, val/loss, val/perplexity, val/bits_per_byte or val/rmse lowest, or that of an
            evaluation, such as eval/greedy/exact_match.
        other_data: continue a run although its data have changed since the checkpoint.
        wandb: Weights & Biases: `auto` is online if this machine is logged in and offline if not; `$WANDB_MODE` decides
            over `auto`.
        project: W&B's project.
        group: W&B's group, for example the study that the run belongs to.
        job_type: W&B's job type.
        tags: W&B's tags.
        about: further keys at the top of `facts.json` and of W&B's configuration, by which runs can be grouped; they
            replace keys of the same name.
        skip_non_finite: steps in a row whose loss or gradient is infinite or NaN that change nothing and are counted;
            the run stops at the next one. 0: it stops at the first.
        watch_every: optimizer steps between two rows with figures of each layer: norms of gradients and weights, update
            over weight, size of activations, load of experts. 0: none.
        attention_every: optimizer steps between two sets of pictures of attention weights, on the first two rows of the
            validation split. 0: none.
        profile: optimizer steps of which `trace.json` is written, a trace by torch's profiler; they begin after four
            others. 0: none.
        spike_threshold: a loss or gradient norm this many deviations above the median of the last 100 steps is marked
            and printed as a spike. 0: none is.
        timeout: minutes without an answer from another process of the run after which the run ends.
    """

    name: str | None = None
    root: str = "runs"
    variant: str | None = None
    save_every: int = 200
    checkpoint: Literal["auto", "file", "sharded"] = "auto"
    keep_last: int = 1
    keep_best: int = 1
    monitor: str = "val/loss"
    other_data: bool = False
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "blockformer"
    group: str | None = None
    job_type: str | None = "train"
    tags: list[str] = field(default_factory=list)
    about: dict[str, int | float | str | None] = field(default_factory=dict)
    skip_non_finite: int = 0
    watch_every: int = 0
    attention_every: int = 0
    profile: int = 0
    spike_threshold: float = 6.0
    timeout: float = 10.0

    def __post_init__(self) -> None:
        for name in ("name", "root", "variant"):
            if not isinstance(value := getattr(self, name), str | None):
                raise UserError(f"run.{name} must be a text, not {value!r}")
        if self.name is not None and (not self.name or Path(self.name).name != self.name or self.name in (".", "..")):
            raise UserError(
                f"run.name {self.name!r} must be the name of a folder, without a path (run.root is the path)"
            )
        if self.name is not None and not (self.name.isprintable() and len(self.name.encode()) <= LONGEST_NAME):
            raise UserError(f"run.name {self.name[:80]!r} must be at most {LONGEST_NAME} bytes of printable characters")
        self._check_watching()
        if not 0 < self.timeout < math.inf:
            raise UserError(f"run.timeout must be a number of minutes above 0, not {self.timeout}")
        if self.save_every < 0:
            raise UserError(f"run.save_every must be a number of steps from 0, not {self.save_every}")
        for name in ("keep_last", "keep_best"):
            if getattr(self, name) < 1:
                raise UserError(f"run.{name} must be a number of checkpoints from 1, not {getattr(self, name)}")
        if self.monitor not in MONITORS and not self.monitor.startswith("eval/"):
            known = f"{', '.join(MONITORS)}, or eval/LABEL/FIGURE of an evaluation"
            raise UserError(f"run.monitor {shortened(self.monitor)} is not one of the figures {known}")

    def _check_watching(self) -> None:
        for name in ("skip_non_finite", "watch_every", "attention_every", "profile"):
            if getattr(self, name) < 0:
                raise UserError(f"run.{name} must be a number of steps from 0, not {getattr(self, name)}")
        if not 0 <= self.spike_threshold < math.inf:
            raise UserError(f"run.spike_threshold must be a number of deviations from 0, not {self.spike_threshold}")


def default_name(variant: str) -> str:
    """The name of a run that is given none: the variant, as far as it can be part of a folder's name, and the time."""
    plain = re.sub(r"[^\w.-]+", "-", variant).strip(".-")[:80] or "run"
    return f"{plain}-{time.strftime('%Y%m%d-%H%M%S')}"


def checkpoints_in(folder: Path) -> list[str]:
    """The names of the checkpoints of a run."""
    return sorted(file.name for file in (folder / CHECKPOINTS).glob("*.ckpt"))


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest state of a run: `last.ckpt`, or `best.ckpt` while that is not written yet; None: there is neither."""
    paths = [folder / CHECKPOINTS / f"{name}.ckpt" for name in (LAST, BEST)]
    return next((path for path in paths if path.is_file()), None)


def set_aside(folder: Path) -> Path | None:
    """Move what an earlier attempt has left in a folder to a folder inside it; None: there is nothing.

    Its settings are copied, so that the next attempt finds them.
    """
    names = [item.name for item in folder.iterdir() if item.name != LOCK and not item.name.startswith(ATTEMPT)]
    if not {CHECKPOINTS, "metrics.jsonl", *SETTINGS} & set(names):
        return None
    aside = next(path for number in count(1) if not (path := folder / f"{ATTEMPT}{number}").exists())
    aside.mkdir()
    for name in names:
        if name in SETTINGS:
            shutil.copy2(folder / name, aside / name)
        else:
            (folder / name).rename(aside / name)
    return aside


def folder_of(checkpoint: Path) -> Path | None:
    """The run's folder that a checkpoint lies in, if it lies in one."""
    parent = checkpoint.absolute().parent
    return checkpoint.parent.parent if parent.name == CHECKPOINTS else None


def results_folder(checkpoint: Path, out: str | None) -> Path:
    """Where the results of `validate`, `test` and `predict` belong.

    Args:
        checkpoint: the checkpoint that they are of.
        out: the folder that the user names; None: that of the checkpoint's run, or `NAME.results` beside a checkpoint
            `NAME.ckpt` that lies in no run's folder.
    """
    if out is not None:
        return Path(out)
    home = folder_of(checkpoint)
    if home is not None and any((home / name).is_file() for name in (*SETTINGS, "metrics.jsonl")):
        return home
    return checkpoint.with_name(f"{checkpoint.stem}.results")


def check_writable(folder: Path, name: str) -> bool:
    """Check that a file can be written into a folder, which is created if necessary.

    Returns:
        Whether the folder was created.

    Raises:
        UserError: it cannot be written.
    """
    path = folder / name
    try:
        created = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        if path.exists() or path.is_symlink():
            if not path.is_file() or path.is_symlink():
                raise UserError(f"{path}: is not a regular file; move it away or name another folder with --out")
            path.open("ab").close()
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else folder
        raise UserError(f"{where}: cannot be written: {error.strerror}; name another folder with --out") from error
    return created


@dataclass(frozen=True)
class FoundCheckpoint:
    """What `--ckpt_path` means.

    Args:
        checkpoint: the file; None: the run has none yet.
        folder: the run's folder, if a run was named.
    """

    checkpoint: Path | None
    folder: Path | None = None


def find_checkpoint(wanted: str, settings: RunSettings, config_folder: Path | None) -> FoundCheckpoint:
    """The checkpoint that `--ckpt_path` means: a path, or `last` or `best` of a run.

    `last` is the newest there is, which is `best.ckpt` until `last.ckpt` is written for the first time.

    Args:
        wanted: the value of the option.
        settings: `name` names the run; without it, the run whose saved configuration was given is meant.
        config_folder: the folder of that configuration.

    Raises:
        UserError: it is not clear which run is meant, or the run has other checkpoints than this one.
    """
    if wanted not in (LAST, BEST):
        return FoundCheckpoint(Path(wanted))
    root = Path(settings.root)
    folder = root / settings.name if settings.name else config_folder
    if folder is None:
        known = sorted(path.parent.name for path in root.glob(f"*/{CHECKPOINTS}")) if root.is_dir() else []
        listed = f"; runs in {root}: {', '.join(known[-8:])}" if known else ""
        raise UserError(f"--ckpt_path {wanted} needs a run: set --run.name, or --config to its config.yaml{listed}")
    path = folder / CHECKPOINTS / f"{wanted}.ckpt"
    newest = newest_checkpoint(folder) if wanted == LAST else path if path.is_file() else None
    if newest is None and (there := checkpoints_in(folder)):
        raise UserError(f"{path}: there is no such checkpoint; there is {', '.join(there)}")
    return FoundCheckpoint(newest, folder)


def settings_text(config: dict[str, Any], signature: str | None = None) -> str:
    """The content of `config.yaml`; the signature is of the files that it names (see `signature.py`)."""
    text = yaml.dump(config, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True)
    return text if signature is None else f"{_SIGNED}{signature}\n{text}"


def signature_in(path: Path) -> str | None:
    """The signature in a `config.yaml`."""
    with path.open("rb") as stream:
        first = stream.readline(len(_SIGNED) + 100).decode(errors="replace")
    return first.removeprefix(_SIGNED).strip() if first.startswith(_SIGNED) else None


def save_settings(folder: Path, recipe: str, settings: str) -> None:
    """Write `recipe.yaml`, the canonical recipe, and `config.yaml`, from which the run can be repeated."""
    for name, content in zip(SETTINGS, (recipe, settings), strict=True):
        write_text(folder / name, content)


class _Dumper(yaml.SafeDumper):
    """Quotes also what is a text in YAML 1.1, which PyYAML writes, but not in YAML 1.2, which we read."""

    def text(self, value: str) -> yaml.Node:
        try:
            is_text = isinstance(parse_text(value, ""), str)
        except ValueError:
            is_text = True  # PyYAML quotes by itself what is no plain text
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=None if is_text or "\n" in value else '"')


_Dumper.add_representer(str, _Dumper.text)
