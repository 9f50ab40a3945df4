"""Claims: which process executes a run, where several processes work on one study."""

import time
from pathlib import Path

from blockformer.errors import UserError
from blockformer.training.run_lock import LOCK, PATIENCE, RunLock

CLAIMS = "claims"
ABANDONED = 2 * PATIENCE  # seconds without a sign of life after which a claim may be taken over


class Claims:
    """The claims of a study's runs, as seen from one process.

    Args:
        folder: of the claims.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._beats: dict[str, tuple[int, float]] = {}  # the last sign of life of others' claims, and when it was seen

    def take(self, run_id: str, run_folder: Path) -> RunLock | None:
        """Claim a run; None: another process, on any machine, executes it.

        A claim without a sign of life is removed once nothing trains in the run's folder, and can then be taken.

        Args:
            run_id: the run's.
            run_folder: where it trains.
        """
        folder = self.folder / run_id
        try:
            return RunLock(folder, quiet=True)
        except UserError:
            if self._is_abandoned(folder / LOCK, run_id, run_folder):
                (folder / LOCK).unlink(missing_ok=True)
            return None

    def _is_abandoned(self, claim: Path, run_id: str, run_folder: Path) -> bool:
        try:
            beat, now = claim.stat().st_mtime_ns, time.monotonic()
        except OSError:
            return False
        last, since = self._beats.setdefault(run_id, (beat, now))
        if last != beat:
            self._beats[run_id] = (beat, now)
        elif now - since > ABANDONED and not is_locked(run_folder):
            del self._beats[run_id]
            return True
        return False


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock of this folder."""
    try:
        RunLock(folder, quiet=True).release()
    except UserError:
        return True
    return False


def is_claimed(folder: Path) -> bool:
    """Whether a claim names an owner, who may have died; the lock is not tried."""
    try:
        return (folder / LOCK).stat().st_size > 0
    except OSError:
        return False
