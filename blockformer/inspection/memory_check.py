"""Whether a model fits into this machine's memory."""

import sys
from pathlib import Path

from blockformer.errors import UserError
from blockformer.inspection.memory import memory
from registry import Recipe


class TooLargeError(UserError):
    """A model does not fit into the memory that is free; the message says how much it needs and what to do."""


def check_room(recipe: Recipe, batch: int, length: int) -> None:
    """Refuse to build what does not fit.

    Raises:
        TooLargeError: it does not.
    """
    told = memory(recipe, "fp32", batch, length)
    needed, free = told.training - told.optimizer, free_memory()
    if needed > free:
        raise TooLargeError(
            f"{recipe.name} must be built for this, which takes {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB "
            "are free: make it smaller, for example with --set vocab_size=1000, a smaller dim or fewer layers"
        )


def free_memory() -> int:
    """Bytes of main memory that a process could still get, as far as the system tells; else more than any has."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return sys.maxsize
