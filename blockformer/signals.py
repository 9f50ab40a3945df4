"""Stop a command on SIGINT, SIGTERM or SIGHUP: one line, whole files, exit status 128 + the number of the signal.

Only the standard library is imported, because the handlers are in place before anything else is loaded.
"""

import atexit
import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.machinery import ExtensionFileLoader
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
GRACE = 5.0  # seconds for Python to react; native code, such as that of a tokenizer, does not let it
AGAIN = 1.0  # seconds until the exception is raised again, because other code has caught it
TWICE = 0.1  # seconds; closer together, a signal came to the process and to its group and counts once

before_exit: list[Callable[[str], object]] = []
"""Called with the last line before the process is ended without unwinding."""


class Stopped(BaseException):
    """A signal asks the command to stop. Like KeyboardInterrupt it is no Exception, so that it is not mistaken for one.

    Args:
        signum: the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum

    @property
    def status(self) -> int:
        """128 + the signal's number, as shells report it."""
        return 128 + self.signum


class _Handlers:
    """The handlers of this process, and a thread that learns of each signal even while native code runs.

    The first signal ends the process at once outside :func:`stopping`, raises :class:`Stopped` inside, and is only
    noted inside :func:`deferred`. A second one ends it at once, unless it is SIGHUP, which follows many a SIGTERM.
    """

    def __init__(self) -> None:
        self.program = "blockformer"
        self.first: int | None = None
        self.note: Callable[[int], object] | None = None
        self.inside = self.noted = self._handled = self._swallowed = False
        self._repeated = 0  # signals that the thread itself has sent
        self._began: float | None = None  # when the first came
        self._raised, self._signum = 0.0, 0
        self._main = threading.main_thread().ident
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        for signum in SIGNALS:
            if signal.getsignal(signum) is not signal.SIG_IGN:  # as under nohup, or in a shell's background
                self._previous[signum] = signal.signal(signum, self._handle)
        atexit.register(self._end)
        if os.name != "posix":  # elsewhere a pipe cannot be waited for
            return
        self._fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        threading.Thread(target=self._watch, daemon=True, name="signals").start()

    def _end(self) -> None:
        """Ignore what comes while the interpreter is taken down, which gives up its handlers: the command has ended."""
        for signum in self._previous:
            signal.signal(signum, signal.SIG_IGN)

    def uninstall(self) -> None:
        atexit.unregister(self._end)
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        if os.name == "posix":
            signal.set_wakeup_fd(self._fd)
            sys.unraisablehook = self._hook
            os.close(self._writer)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._handled = True
        if self.first is not None and not self._swallowed:
            return  # the thread decides about a second one
        self.first, self._swallowed = signum, False
        if self.note is not None:
            self.noted = True
            self.note(signum)
        elif self.inside and os.name == "posix" and _in_compiled_module(frame):
            self._swallowed = True  # the thread raises it again, until the module is loaded
        elif self.inside:
            raise Stopped(signum)
        else:
            self._exit(signum)

    def _unraisable(self, unraisable: Any) -> None:
        """Raise again later what Python cannot raise inside a destructor or a callback of C code."""
        if isinstance(unraisable.exc_value, Stopped):
            self._swallowed = True
        else:
            self._hook(unraisable)

    def _watch(self) -> None:
        """Read the number of each signal, and look after the first whether Python reacts to it."""
        while True:
            ready, _, _ = select.select([self._reader], [], [], None if self._began is None else 0.1)
            numbers = os.read(self._reader, 64) if ready else b"\0"
            if not numbers:  # uninstalled
                os.close(self._reader)
                return
            for number in numbers:
                if number in self._previous:
                    self._count(number)
            if self._began is not None:
                self._insist(time.monotonic())

    def _count(self, signum: int) -> None:
        if self._repeated:
            self._repeated -= 1
        elif self._began is None:
            self._began, self._signum = time.monotonic(), signum
        elif time.monotonic() - self._began > TWICE and signum != getattr(signal, "SIGHUP", 0):
            self._exit(signum, " again, at once")

    def _insist(self, now: float) -> None:
        assert self._began is not None
        if not self._handled:
            if now - self._began > GRACE:
                self._exit(self._signum)
            return
        caught = self.inside and not self.noted and now - max(self._began, self._raised) > AGAIN
        if (caught or self._swallowed) and self._main is not None:
            self._raised, self._swallowed = now, True
            self._repeated += 1
            signal.pthread_kill(self._main, self._signum)

    def _exit(self, signum: int, how: str = "") -> None:
        """End the process without unwinding: files are replaced in one step, so none is left half-written."""
        stopped = Stopped(signum)
        line = f"{self.program}: {stopped}{how}"
        with contextlib.suppress(OSError):
            os.write(2, f"{line}\n".encode())
        for call in before_exit:
            with contextlib.suppress(Exception):
                call(line)
        os._exit(stopped.status)


def _in_compiled_module(frame: FrameType | None) -> bool:
    """Whether a module in machine code is being loaded, whose initialisation may abort on an exception from Python."""
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
            return True
        frame = frame.f_back
    return False


_handlers: _Handlers | None = None


def install() -> None:
    """Handle the signals from now to the end of the process; until :func:`stopping`, they end it at once."""
    global _handlers
    if _handlers is None and threading.current_thread() is threading.main_thread():
        _handlers = _Handlers()
        _handlers.install()


def _uninstall() -> None:
    global _handlers
    if _handlers is not None:
        _handlers.uninstall()
        _handlers = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_uninstall)  # a worker is stopped by its parent


@contextlib.contextmanager
def stopping(program: str) -> Iterator[None]:
    """Raise :class:`Stopped` on a signal, once; at the end the handlers are as they were.

    Args:
        program: begins the line that is printed where the process must be ended at once.

    Raises:
        Stopped: also at the end, if code inside has caught it and gone on.
    """
    ours = _handlers is None
    install()
    handlers = _handlers
    if handlers is None:  # not in the main thread, where alone Python handles signals
        yield
        return
    handlers.program, handlers.inside = program, True
    try:
        yield
        if stopped := received():
            raise stopped
    finally:
        handlers.inside = False
        if ours:
            _uninstall()


def received() -> Stopped | None:
    """The signal that asked the command to stop, also if an exception of other code hides it."""
    if _handlers is None or _handlers.noted or _handlers.first is None:
        return None
    return Stopped(_handlers.first)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Hold back Ctrl-C, which reaches all processes of a terminal; processes that are started here never get it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def deferred(note: Callable[[int], object]) -> Callable[[], None]:
    """Call ``note`` with the first signal instead of raising an exception, until the returned function is called."""
    if (handlers := _handlers) is not None:
        handlers.note = note

        def undo() -> None:
            handlers.note = None

        return undo
    if threading.current_thread() is not threading.main_thread():
        return lambda: None

    def handle(signum: int, frame: FrameType | None) -> None:
        note(signum)
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)

    kept = [signum for signum in SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]
    previous = {signum: signal.signal(signum, handle) for signum in kept}

    def restore() -> None:
        for signum, handler in previous.items():
            signal.signal(signum, handler)

    return restore
