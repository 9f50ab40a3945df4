"""Further checkpoints that a run keeps: the last versions of `last.ckpt`, and the best ones after the best."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from blockformer.assembly.checkpoint import LoadError, read_metadata
from blockformer.assembly.checkpoint_parts import parts_of
from blockformer.assembly.parts_table import PARTS
from blockformer.training.evaluations import Better
from blockformer.training.run_folder import LAST

_STEP = re.compile(r"step-(\d+)\.ckpt")
_BEST = re.compile(r"best-step-(\d+)\.ckpt")


class KeptCheckpoints:
    """Which checkpoints stay in a run's folder; every process has one, and the first changes files.

    Args:
        folder: of the checkpoints.
        last: versions of `last.ckpt` that are kept as `step-N.ckpt`, the newest among them; below 2: none.
        best: checkpoints with the best figures that are kept as `best-step-N.ckpt`; below 2: none.
        monitor: the figure.
        better: picks the better of two values of it.
    """

    def __init__(self, folder: Path, last: int, best: int, monitor: str, better: Better) -> None:
        self.folder, self.last, self.best = folder, last, best
        self._monitor, self.better = monitor, better
        self.ranked: list[tuple[float, int]] = []  # figure and step of those that are kept, the best first
        self._made: set[Path] = set()

    def ranked_files(self) -> list[tuple[float, int]]:
        """Figure and step of the best ones in the folder, from their metadata."""
        found: list[tuple[float, int]] = []
        for path in self.folder.glob("best-step-*.ckpt") if self.best > 1 else ():
            with contextlib.suppress(LoadError):
                value = (read_metadata(path).get("evaluation") or {}).get(self._monitor)
                if (name := _BEST.fullmatch(path.name)) and isinstance(value, float):
                    found.append((value, int(name[1])))
        return self._in_order(found)

    def enter(self, value: float, step: int) -> bool:
        """Whether a validation belongs to the best ones, among which it is from now on."""
        others = [one for one in self.ranked if one[1] != step]
        self.ranked = self._in_order([*others, (value, step)])[: self.best]
        return self.best > 1 and (value, step) in self.ranked

    def _in_order(self, found: Iterable[tuple[float, int]]) -> list[tuple[float, int]]:
        lowest_first = self.better(0.0, 1.0) == 0.0
        return sorted(found, key=lambda one: (one[0] if lowest_first else -one[0], one[1]))

    def best_path(self, step: int) -> Path:
        """The file of one of the best ones."""
        return self.folder / f"best-step-{step}.ckpt"

    def after_write(self, path: Path, step: int) -> None:
        """Keep what was written, and remove what no longer is among the last or best ones, and parts of neither."""
        if path.name == f"{LAST}.ckpt" and self.last > 1:
            kept = self.folder / f"step-{step}.ckpt"
            _link(path, kept)
            self._made.add(kept)
            ours = [file for file in self.folder.glob("step-*.ckpt") if _STEP.fullmatch(file.name)]
            for old in sorted(ours, key=lambda file: file.stat().st_mtime_ns)[: -self.last]:
                old.unlink(missing_ok=True)
        elif path.name == "best.ckpt" and self.best > 1:
            _link(path, self.best_path(step))
        if self.best > 1 and path.name != f"{LAST}.ckpt":
            among = {step for _, step in self.ranked}
            for file in self.folder.glob("best-step-*.ckpt"):
                if (name := _BEST.fullmatch(file.name)) and int(name[1]) not in among:
                    file.unlink(missing_ok=True)
        remove_unused_parts(self.folder)

    def drop_from(self, step: int) -> None:
        """Remove versions of this step and later ones, whose weights are of no use."""
        for path in self._made:
            if (name := _STEP.fullmatch(path.name)) and int(name[1]) >= step:
                path.unlink(missing_ok=True)


def remove_unused_parts(folder: Path) -> None:
    """Remove folders of parts that no checkpoint in the folder names; none if a checkpoint cannot be read."""
    there = list(folder.glob(f"*.{PARTS}"))
    if not there:
        return
    used: set[str] = set()
    for index in (*folder.glob("*.ckpt"), *folder.glob(".*.ckpt.before.tmp")):
        try:
            parts = parts_of(index)
        except LoadError:
            return
        used |= set() if parts is None else {parts.table.folder}
    for path in there:
        if path.name not in used:
            shutil.rmtree(path, ignore_errors=True)


def _link(path: Path, other: Path) -> None:
    """Give a file another name; where the file system has no such, copy it."""
    draft = other.with_name(f".{other.name}.link.tmp")
    draft.unlink(missing_ok=True)
    try:
        os.link(path, draft)
    except OSError:
        shutil.copy2(path, draft)
    draft.replace(other)
    draft.unlink(missing_ok=True)  # renaming one name of a file to another of the same file does nothing
