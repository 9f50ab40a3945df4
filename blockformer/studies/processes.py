"""The processes of runs: `blockformer` commands as forks of one process in which everything is loaded already.

Loading the packages takes longer than many a short run trains.
"""

import array
import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

PROGRAM = "blockformer.cli.main"
SERVER = "import sys; from blockformer.studies.fork_server import serve; sys.exit(serve({descriptor}, {program!r}))"
LOST = -int(signal.SIGKILL)  # exit status reported for a command whose server ended before it could report the true one
CLOSING = 60.0  # seconds until a server that does not end is killed; it may still be loading the packages
HEADER = 8  # bytes: the length of a request


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
        forked: fork a process that has loaded the packages, on Linux; it must not use a GPU, which a forked process
            cannot take over.

    Raises:
        OSError: no process can be started.
    """
    if forked and sys.platform == "linux":
        return _begin_forked(arguments, environment, log, kept)
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
            raise ConnectionError("no process could be started: the server process has ended or cannot fork")
        self.pid = int(first)
        self.status: int | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._read, daemon=True, name=f"run {self.pid}").start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.status = int(self._lines.readline())
        if self.status is None:
            _wait_for_end(self.pid)  # the server is gone, and the command may go on
        self._ended.set()

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return not self._ended.is_set()

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
        program: the module whose ``main`` is run for each command.
    """

    def __init__(self, environment: Mapping[str, str], program: str = PROGRAM) -> None:
        self.owner, self._begun, self._asked = os.getpid(), list[Forked](), 0
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", SERVER.format(descriptor=theirs.fileno(), program=program)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )

    @property
    def usable(self) -> bool:
        """Whether this process can use it."""
        return self.owner == os.getpid() and self._process.poll() is None

    @property
    def idle(self) -> bool:
        """Whether none of its commands runs or is about to."""
        return not self._asked and not any(one.runs for one in self._begun)

    def send(
        self, arguments: Sequence[str], environment: Mapping[str, str], log: IO[bytes], kept: Sequence[int]
    ) -> socket.socket:
        """Ask for a command, as :func:`begin` does; the socket is that of :class:`Forked`."""
        request = {"arguments": list(arguments), "environment": dict(environment), "folder": str(Path.cwd())}
        text = json.dumps(request).encode()
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = [theirs.fileno(), log.fileno(), *kept]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
            self._socket.sendmsg([len(text).to_bytes(HEADER, "big")], rights)
            self._socket.sendall(text)
        return ours

    def begin(
        self, arguments: Sequence[str], environment: Mapping[str, str], log: IO[bytes], kept: Sequence[int]
    ) -> Callable[[], Forked]:
        """Ask for a command. Returns a function that waits until it has begun, which takes as long as the loading."""
        connection = self.send(arguments, environment, log, kept)
        self._asked += 1

        def begun() -> Forked:
            try:
                command = Forked(connection)
                self._begun = [*(one for one in self._begun if one.runs), command]
            finally:
                self._asked -= 1
            return command

        return begun

    def close(self) -> None:
        """Let it end."""
        if self.owner == os.getpid():
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            try:
                self._process.wait(CLOSING)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


_servers: list[tuple[dict[str, str], Server]] = []
_guard = threading.Lock()


def _begin_forked(
    arguments: Sequence[str], environment: Mapping[str, str], log: IO[bytes], kept: Sequence[int]
) -> Forked:
    """Begin a command in a fork of the server of this environment."""
    with _guard:
        server = next((one for of, one in _servers if of == environment and one.usable), None)
        if server is None:
            _close()
            server = Server(environment)
            _servers.append((dict(environment), server))
        begun = server.begin(arguments, environment, log, kept)
    return begun()  # outside the lock, so that others can ask meanwhile


def _close() -> None:
    """End the servers that have nothing to do."""
    for environment, server in list(_servers):
        if server.idle:
            server.close()
            _servers.remove((environment, server))


@atexit.register
def close_all() -> None:
    """End all servers; their commands go on."""
    for _, server in _servers:
        server.close()
    _servers.clear()


def _wait_for_end(pid: int) -> None:
    """Wait until a process that is no child of this one has ended."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            ended = select.poll()  # readable when the process has ended
            ended.register(descriptor, select.POLLIN)
            ended.poll()
        finally:
            os.close(descriptor)
