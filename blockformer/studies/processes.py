"""The processes of runs: `blockformer` commands as forks of one process in which everything is loaded already.

Loading the packages takes longer than many a short run trains.
"""

import array
import atexit
import contextlib
import gc
import importlib.util
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Protocol

PROGRAM = "blockformer.cli.main"
PRELOADED = ("blockformer.training.lightning_cli", "blockformer.cli.fit_arguments", "blockformer.cli.fit")
SERVER = "import sys; from blockformer.studies.processes import serve; sys.exit(serve({descriptor}))"
LOST = -int(signal.SIGTERM)  # exit status of a command whose server has ended, so that nobody knows the true one
_HEADER = 8  # bytes: the length of a request
_MOST = 32  # descriptors in one request


class Running(Protocol):
    """A command in a process of its own, as :class:`subprocess.Popen` shows it."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit status; `subprocess.TimeoutExpired` if it has not ended after so many seconds."""
        ...

    def terminate(self) -> None:
        """Ask it to end."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


def begin(
    arguments: Sequence[str], environment: Mapping[str, str], log: IO[bytes], kept: Sequence[int], *, forked: bool
) -> Running:
    """Begin a `blockformer` command in a process and session of its own.

    Args:
        arguments: of the command.
        environment: of the process.
        log: what it prints is written here.
        kept: descriptors that the process keeps open.
        forked: fork a process that has loaded the packages, where the system can; it must not use a GPU, which a
            forked process cannot take over.

    Raises:
        OSError: no process can be started.
    """
    if forked and hasattr(os, "fork"):
        return _server(environment).begin(arguments, environment, log, kept)
    return start([sys.executable, "-m", PROGRAM, *arguments], environment, log, kept)


def start(
    command: Sequence[str], environment: Mapping[str, str], log: IO[bytes], kept: Sequence[int]
) -> "subprocess.Popen[bytes]":
    """Start any command in a process and session of its own; arguments as in :func:`begin`."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment,
        start_new_session=True,  # Ctrl-C reaches this process alone, which asks the runs to save
        pass_fds=list(kept),
    )


class Forked:
    """A command that a server has forked.

    Args:
        connection: on which the server sends the number of the process and later its exit status.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._lines = connection.makefile("r", encoding="ascii")
        connection.close()  # the file keeps it open
        first = self._lines.readline()
        if not first:
            raise ConnectionError("the process that loads the packages for the runs has ended")
        self.pid = int(first)
        self.status: int | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._read, daemon=True, name=f"run {self.pid}").start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.status = int(self._lines.readline() or LOST)
        self._ended.set()

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(PROGRAM, timeout or 0.0)
        return LOST if self.status is None else self.status

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, signum: int) -> None:
        if not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)


class Server:
    """A process that loads the packages once and forks itself for each command.

    It ends when this process ends, however it does; the commands that run then go on.

    Args:
        environment: of the server; of a command, only what packages do not read when they are loaded may differ.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.owner, self._guard = os.getpid(), threading.Lock()
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", SERVER.format(descriptor=theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )

    @property
    def runs(self) -> bool:
        """Whether this process can use it."""
        return self.owner == os.getpid() and self._process.poll() is None

    def begin(
        self, arguments: Sequence[str], environment: Mapping[str, str], log: IO[bytes], kept: Sequence[int]
    ) -> Forked:
        """Begin a command, as :func:`begin` does."""
        request = {"arguments": list(arguments), "environment": dict(environment), "folder": str(Path.cwd())}
        text = json.dumps(request).encode()
        ours, theirs = socket.socketpair()
        with theirs, self._guard:
            descriptors = [theirs.fileno(), log.fileno(), *kept]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            self._socket.sendmsg([len(text).to_bytes(_HEADER, "big")], rights)
            self._socket.sendall(text)
        return Forked(ours)

    def close(self) -> None:
        """Let it end."""
        if self.owner == os.getpid():
            self._socket.close()
            self._process.wait()


_running: tuple[dict[str, str], Server] | None = None
_guard = threading.Lock()


def _server(environment: Mapping[str, str]) -> Server:
    """The server of this process for commands in this environment."""
    global _running
    with _guard:
        if _running is not None and (_running[0] != environment or not _running[1].runs):
            _close()
        if _running is None:
            _running = dict(environment), Server(environment)
        return _running[1]


@atexit.register
def _close() -> None:
    global _running
    if _running is not None:
        _running[1].close()
        _running = None


def serve(descriptor: int) -> int:
    """Serve until the other end of the socket is closed; in each forked process run the command and give its status."""
    for name in PRELOADED:
        import_module(name)
    gc.collect()
    gc.freeze()  # so that collections in the forked processes don't copy its memory
    with socket.socket(fileno=descriptor) as control:
        request = _forked(control)
    return 0 if request is None else _run(request)


def _forked(control: socket.socket) -> dict[str, Any] | None:
    """Fork a process for each request. Returns the request in a forked process, and None in the server at the end."""
    running: dict[int, socket.socket] = {}
    ended, writer = socket.socketpair()
    writer.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda signum, frame: None)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    with ended, writer, selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(ended, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select()]
            if ended in ready:
                ended.recv(4096)
                _report(running)
            if control not in ready:
                continue
            header, descriptors, _, _ = socket.recv_fds(control, _HEADER, _MOST)
            if not header:
                return None
            request = json.loads(control.recv(int.from_bytes(header, "big"), socket.MSG_WAITALL))
            connection, log, *kept = descriptors
            if (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for other in running.values():
                    other.close()
                os.close(connection)
                return request | {"log": log}
            running[pid] = socket.socket(fileno=connection)
            for descriptor in (log, *kept):
                os.close(descriptor)
            with contextlib.suppress(OSError):
                running[pid].sendall(f"{pid}\n".encode())


def _report(running: dict[int, socket.socket]) -> None:
    """Send the exit statuses of the processes that have ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        with running.pop(pid) as connection, contextlib.suppress(OSError):
            connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _run(request: Mapping[str, Any]) -> int:
    """Run a command in a forked process, as `python -m blockformer.cli.main` would in a new one."""
    os.setsid()
    for stream in (1, 2):
        os.dup2(request["log"], stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    specification = importlib.util.find_spec(PROGRAM)
    assert specification is not None
    sys.argv = [str(specification.origin), *request["arguments"]]
    sys.modules["__main__"].__spec__ = specification  # what starts further processes looks here for the command
    return import_module(PROGRAM).main()
