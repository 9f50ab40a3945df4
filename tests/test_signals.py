"""Signals that come while a compiled module is loaded, and while a command's process ends."""

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


LOADING = """
import _imp, importlib.util, os, signal, sys, time
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from blockformer import signals

def create(spec, file=None):
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(5):
        time.sleep(0.1)
    print("loaded", flush=True)
    return type(sys)(spec.name)

_imp.create_dynamic = create
_imp.exec_dynamic = lambda module: 0
spec = ModuleSpec("compiled", ExtensionFileLoader("compiled", "compiled.so"), origin="compiled.so")
signals.install()
try:
    with signals.stopping("here"):
        importlib.util.module_from_spec(spec)
        for _ in range(100):
            time.sleep(0.1)
        print("went on", flush=True)
except signals.Stopped as stopped:
    print(stopped, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are delayed on POSIX only")
def test_a_signal_waits_until_a_compiled_module_is_loaded() -> None:
    ended = subprocess.run([sys.executable, "-c", LOADING], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines() == ["loaded", "stopped by SIGTERM"], ended.stderr
