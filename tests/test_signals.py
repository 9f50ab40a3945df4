"""Signals that come while a command's process ends."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# glibc calls sleep(exit status) when the interpreter is gone.
ENDING = """
import ctypes, sys
from blockformer import signals
signals.install()
libc = ctypes.CDLL(None)
libc.on_exit(libc.sleep, None)
print("ends", flush=True)
sys.exit(3)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="on_exit is of glibc")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_after_the_interpreter_does_not_change_the_status(signum: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ENDING],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: [signal.signal(one, signal.SIG_DFL) for one in (signal.SIGINT, signal.SIGHUP)],
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ends\n"
        time.sleep(1)
        running.send_signal(signum)
        assert running.wait(30) == 3
