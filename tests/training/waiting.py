"""Wait for another process."""

import time
from collections.abc import Callable
from typing import Any


def wait_for(happened: Callable[[], bool], process: Any, seconds: float = 180) -> None:
    """Look again and again until it has happened; give up if the process ends first or takes too long."""
    end = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, f"ended with {process.returncode}: {process.communicate()[0]}"
        assert time.monotonic() < end, "took too long"
        time.sleep(0.02)
