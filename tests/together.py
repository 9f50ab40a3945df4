"""Processes of one command, forked from one that has loaded everything."""

import atexit
import os
import socket
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from blockformer.studies.processes import PROGRAM, Forked, Server

ROOT = Path(__file__).parents[1]
GRACE = 10.0  # seconds
SETTINGS = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


class Together:
    """The processes of a command, several as torchrun would start them; used like :class:`subprocess.Popen`.

    Args:
        arguments: of the command.
        environment: of each process, besides that of this one.
        program: the module whose ``main`` is run.
        processes: how many; None: as many as `--trainer.devices` says.
    """

    def __init__(
        self,
        arguments: list[str],
        environment: Mapping[str, str],
        *,
        program: str = PROGRAM,
        processes: int | None = None,
    ) -> None:
        world = int(arguments[arguments.index("--trainer.devices") + 1]) if processes is None else processes
        shared: dict[str, object] = {**_environment(), **environment}
        if world > 1:
            shared = _as_torchrun(world) | shared
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (read when the processes have ended)
        self._processes: list[Forked] = []
        for rank in range(world):
            own = shared | ({"RANK": rank, "LOCAL_RANK": rank} if world > 1 else {})
            strings = {key: str(value) for key, value in own.items()}
            self._processes.append(_server(program).begin(arguments, strings, self._log, ())())
        self.returncode: int | None = None

    def communicate(self, timeout: float) -> tuple[str, None]:
        """What they have printed when all have ended; :attr:`returncode` is the first exit status that is not 0.

        When one has failed, the others are killed soon, as torchrun does.
        """
        end = time.monotonic() + timeout
        try:
            while any(process.runs for process in self._processes) and time.monotonic() < end:
                if any(process.status for process in self._processes):
                    end = min(end, time.monotonic() + GRACE)
                time.sleep(0.05)
        finally:
            for process in self._processes:
                process.kill()
        statuses = [process.wait() for process in self._processes]
        self.returncode = next((status for status in statuses if status > 0), min(statuses))
        self._log.seek(0)
        return self._log.read().decode(), None


def _as_torchrun(world: int) -> dict[str, object]:
    """What torchrun sets for each of so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0, "MASTER_PORT": port}
    return {**shared, "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "tests"}


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "BLOCKFORMER_RUN"))}


@cache
def _server(program: str) -> Server:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    server = Server({**_environment(), **SETTINGS, "PYTHONPATH": paths}, program)
    atexit.register(server.close)
    return server
