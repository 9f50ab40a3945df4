"""Which of several processes this is."""

from typing import Any, cast

from lightning.pytorch.utilities import rank_zero_only


def is_first() -> bool:
    """Whether this is the process that speaks and writes, as far as the environment tells."""
    return cast("Any", rank_zero_only).rank == 0
