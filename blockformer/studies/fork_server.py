"""A server process that has all packages loaded and forks itself for each command of :mod:`.processes`."""

import contextlib
import gc
import importlib.util
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from blockformer.studies.processes import HEADER

PRELOADED = ("blockformer.training.lightning_cli", "blockformer.cli.fit_command_line", "blockformer.cli.fit")
MOST = 32  # descriptors in one request
KEPT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if hasattr(signal, "SIGHUP") else ()
"""Signals that end no server: a scheduler sends them to all processes of a job, whose commands then save."""


def serve(descriptor: int, program: str) -> int:
    """Serve until the other end of the socket is closed; in each forked process run the command and give its status.

    Args:
        descriptor: of the socket.
        program: the module whose ``main`` is run.
    """
    for name in PRELOADED:
        import_module(name)
    before = {signum: signal.signal(signum, signal.SIG_IGN) for signum in KEPT}
    gc.collect()
    gc.freeze()  # so that collections in the forked processes don't copy its memory
    with socket.socket(fileno=descriptor) as control:
        request = _Forks(control).serve()
    if request is None:
        return 0
    for signum, handler in before.items():
        signal.signal(signum, handler)
    return _run(program, request)


class _Forks:
    """Forks a process for each request.

    Args:
        control: where requests come from.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._running: dict[int, socket.socket] = {}

    def serve(self) -> dict[str, Any] | None:
        """Answer requests. Returns the request in a forked process, and None in the server at the end."""
        ended, writer = socket.socketpair()
        writer.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        with ended, writer, selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(ended, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if ended in ready:
                    ended.recv(4096)
                    self._report()
                if self._control not in ready:
                    continue
                header, descriptors, _, _ = socket.recv_fds(self._control, HEADER, MOST)
                if not header:
                    return None
                request = json.loads(self._received(int.from_bytes(header, "big")))
                if self._is_forked(list(descriptors)):
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    return request | {"log": descriptors[1]}

    def _is_forked(self, descriptors: list[int]) -> bool:
        """Fork. Returns whether this is the new process, which keeps all descriptors but that of the connection."""
        connection, *others = descriptors
        try:
            pid = os.fork()
        except OSError:  # too many processes, or no memory; closing the connection says so
            for descriptor in descriptors:
                os.close(descriptor)
            return False
        if pid == 0:
            for other in self._running.values():
                other.close()
            os.close(connection)
            return True
        self._running[pid] = socket.socket(fileno=connection)
        for descriptor in others:
            os.close(descriptor)
        try:
            self._running[pid].sendall(f"{pid}\n".encode())
        except OSError:  # who asked for it has ended meanwhile
            os.kill(pid, signal.SIGKILL)
        return False

    def _received(self, size: int) -> bytes:
        """So many bytes."""
        data = b""
        while len(data) < size:
            if not (part := self._control.recv(size - len(data))):
                raise EOFError
            data += part
        return data

    def _report(self) -> None:
        """Send the exit statuses of the processes that have ended."""
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with self._running.pop(pid) as connection, contextlib.suppress(OSError):
                connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _run(program: str, request: Mapping[str, Any]) -> int:
    """Run a command in a forked process, as `python -m PROGRAM` would in a new one."""
    os.setsid()
    for stream in (1, 2):
        os.dup2(request["log"], stream)
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    specification = importlib.util.find_spec(program)
    assert specification is not None
    sys.argv = [str(specification.origin), *request["arguments"]]
    sys.modules["__main__"].__spec__ = specification  # what starts further processes looks here for the command
    return import_module(program).main()
