"""Check the free memory before a large allocation."""

import sys
from contextlib import suppress
from pathlib import Path

import torch

from blockformer.errors import UserError


class TooLargeError(UserError):
    """A model does not fit into the free memory; the message names what it needs and what to do."""


def free_memory(device: torch.device | str = "cpu") -> int:
    """Bytes that a process could still allocate on a device; where the system does not report it, no limit."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if torch.device(device).type != "cpu":
        return sys.maxsize
    limits = [sys.maxsize]
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        limits.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    with suppress(OSError, ValueError):  # the limit of a container; without one, the file says `max`
        group = Path("/sys/fs/cgroup")
        limits.append(int((group / "memory.max").read_text()) - _held(group))
    return min(limits)


def require_free(needed: int, what: str, device: torch.device | str = "cpu", remedy: str = "") -> None:
    """Check that something fits into the free memory.

    Args:
        needed: its bytes.
        what: its name, for the message.
        device: where it will be.
        remedy: what the user can do if it does not fit, the end of the message; empty: the message ends without it.

    Raises:
        TooLargeError: it does not.
    """
    if needed > (free := free_memory(device)):
        said = f"{what} takes {needed / 2**30:,.1f} GiB, but {free / 2**30:,.1f} GiB are free on {device}"
        raise TooLargeError(said + (f"; {remedy}" if remedy else ""))


def _held(group: Path) -> int:
    """Bytes of a container that the system cannot take back, as it can its cached files."""
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int((group / "memory.current").read_text()) - int(stat.get("inactive_file", 0))
