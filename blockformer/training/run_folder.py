"""A run's folder: its name, chosen once and found again by a run that continues, and the files that repeat the run."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from blockformer.errors import UserError
from blockformer.files import write_text
from blockformer.training.score import BETTER
from registry.strict_yaml import parse_text

CHECKPOINTS = "checkpoints"
MONITORS = [f"val/{name}" for name in BETTER]
_SHARED = "BLOCKFORMER_RUN_FOLDER"  # tells the processes that a run starts where it lives


@dataclass
class RunSettings:
    """What a user may say about the run as such; these fields are the flags `--run.*`.

    Args:
        name: the run's folder, under `root`; the variant and the time when not given.
        root: the folder that runs lie in.
        variant: what to call this model in names and tables; the recipe's name when not given.
        save_every: optimizer steps between two versions of `checkpoints/last.ckpt`; 0: only at the end.
        monitor: `checkpoints/best.ckpt` is where this figure was best: val/accuracy highest, val/loss, val/perplexity
            or val/bits_per_byte lowest.
        wandb: Weights & Biases: `auto` is online if this machine is logged in and offline if not; `$WANDB_MODE` decides
            over `auto`.
        project: W&B's project.
        group: W&B's group, for example the study that the run belongs to.
        job_type: W&B's job type.
        tags: W&B's tags.
    """

    name: str | None = None
    root: str = "runs"
    variant: str | None = None
    save_every: int = 200
    monitor: str = "val/loss"
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "blockformer"
    group: str | None = None
    job_type: str | None = "train"
    tags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.name is not None and (not self.name or Path(self.name).name != self.name or self.name in (".", "..")):
            raise UserError(
                f"run.name {self.name!r} must be the name of a folder, without a path (run.root is the path)"
            )
        if self.save_every < 0:
            raise UserError(f"run.save_every cannot be {self.save_every}")
        if self.monitor not in MONITORS:
            figures = ", ".join(MONITORS)
            raise UserError(f"run.monitor {self.monitor!r} is none of the figures of a validation: {figures}")


def fresh_folder(settings: RunSettings, variant: str, *, first: bool) -> Path:
    """The folder of a run that begins.

    Args:
        settings: name and root.
        variant: begins the name where none is given.
        first: whether this is the first process; the others are told what it chose, as their clocks may differ.

    Raises:
        UserError: another run lives there.
    """
    if not first and (chosen := os.environ.get(_SHARED)):
        return Path(chosen)
    root = Path(settings.root)
    folder = root / (settings.name or _unused(root, f"{variant}-{time.strftime('%Y%m%d-%H%M%S')}"))
    if first and occupied(folder):
        raise UserError(
            f"{folder} holds a run already: continue it with --ckpt_path last, or begin another with --run.name"
        )
    os.environ[_SHARED] = str(folder)
    return folder


def _unused(root: Path, name: str) -> str:
    """The name, with a number if another run began in the same second."""
    names = [name, *(f"{name}-{number}" for number in range(2, 1000))]
    return next(candidate for candidate in names if not (root / candidate).exists())


def occupied(folder: Path) -> bool:
    """Whether a run has left something worth keeping in this folder."""
    return any((folder / name).exists() for name in (CHECKPOINTS, "metrics.jsonl"))


def folder_of(checkpoint: Path) -> Path | None:
    """The run's folder that a checkpoint lies in, if it lies in one."""
    parent = checkpoint.absolute().parent
    return checkpoint.parent.parent if parent.name == CHECKPOINTS else None


def find_checkpoint(wanted: str, settings: RunSettings, config_folder: Path | None) -> Path:
    """The file that `--ckpt_path` means: a path, or `last` or `best` of a run.

    Args:
        wanted: what was said.
        settings: `name` says which run; without it, the run whose saved configuration was given is meant.
        config_folder: where that configuration lies.

    Raises:
        UserError: it cannot be told which run, or the run has no such checkpoint.
    """
    if wanted not in ("last", "best"):
        return Path(wanted)
    root = Path(settings.root)
    folder = root / settings.name if settings.name else config_folder
    if folder is None:
        known = sorted(path.parent.name for path in root.glob(f"*/{CHECKPOINTS}")) if root.is_dir() else []
        listed = f"; runs in {root}: {', '.join(known[-8:])}" if known else ""
        raise UserError(
            f"--ckpt_path {wanted} of which run? Say --run.name, or give its config.yaml to --config{listed}"
        )
    path = folder / CHECKPOINTS / f"{wanted}.ckpt"
    if not path.is_file():
        there = sorted(file.name for file in path.parent.glob("*.ckpt"))
        raise UserError(f"{path}: there is no such checkpoint" + (f"; there is {', '.join(there)}" if there else ""))
    return path


def save_settings(folder: Path, recipe: str, config: dict[str, Any]) -> None:
    """Write `recipe.yaml`, the canonical recipe, and `config.yaml`, from which the run can be repeated."""
    text = yaml.dump(config, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True)
    for name, content in (("recipe.yaml", recipe), ("config.yaml", text)):
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
