"""Starts the other processes of a run on this machine, and ends them with the first one."""

import contextlib
import os
import re
import signal
import threading
import time
from typing import Any

import torch.distributed as dist
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from blockformer import signals
from blockformer.errors import UserError

GRACE = 5.0  # seconds for the first process to notice by itself that another one is gone
_PARENT = "BLOCKFORMER_LAUNCHED_BY"  # tells a process which one has started it


class LostProcessError(RuntimeError):
    """Another process of the run has ended or does not answer; the message is one line."""


class Launcher(_SubprocessScriptLauncher):
    """Lightning's launcher, which kills the run without a word when another process fails; this one says which."""

    def launch(self, function: Any, *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            os.environ[_PARENT] = str(os.getpid())
            self._call_children_scripts()
            signals.before_exit.append(self.kill_all)
            threading.Thread(target=self._watch, args=(trainer,), daemon=True, name="processes").start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)

    def kill_all(self, line: str = "") -> None:
        """End the processes that were started, at once; also stopped ones."""
        for process in self.procs:
            with contextlib.suppress(OSError):
                process.kill()
        if self.kill_all in signals.before_exit:
            signals.before_exit.remove(self.kill_all)

    def lost(self) -> str | None:
        """Which process has failed, and how."""
        for rank, process in enumerate(self.procs, start=1):
            if status := process.poll():
                how = signal.Signals(-status).name if status < 0 else f"status {status}"
                return f"process {rank} of {self.num_processes} has ended with {how}"
        return None

    def _watch(self, trainer: Any) -> None:
        while self.lost() is None:
            if all(process.returncode == 0 for process in self.procs):
                return
            time.sleep(0.5)
        time.sleep(GRACE)
        if self.kill_all in signals.before_exit:  # and not ended by the first process itself
            end_at_once(f"the run failed: {self.lost()}{advice(trainer)}")


_CONNECTION = re.compile(
    r"gloo|NCCL|TCPStore|process ?group|socket|connection (closed|reset|refused)|broken pipe", re.I
)


def lost_process(error: Exception, trainer: Trainer) -> str | None:
    """What is wrong with another process, if an error is that of a lost connection to it; else None."""
    if trainer.world_size == 1 or not (isinstance(error, dist.DistError) or _CONNECTION.search(str(error))):
        return None
    launcher, end = trainer.strategy.launcher, time.monotonic() + GRACE / 2
    while isinstance(launcher, Launcher) and time.monotonic() < end:
        if found := launcher.lost():
            return found + advice(trainer)
        time.sleep(0.1)
    return f"the connection to another process is lost ({' '.join(str(error).split())[:200]}){advice(trainer)}"


def advice(trainer: Any) -> str:
    """What to do about a run that has lost a process."""
    return "; continue with --ckpt_path last" if trainer.state.fn == "fit" else ""


def end_at_once(line: str, status: int = 1) -> None:
    """Print a line and end this process and those that it has started, although its main thread waits for another."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())
    for call in list(signals.before_exit):
        with contextlib.suppress(Exception):
            call(line)
    os._exit(status)


def take_processes_of_starter(settings: dict[str, Any]) -> None:
    """Complete the trainer's settings by the processes that torchrun or SLURM has started for this command.

    Without that each process would train a model of its own, and all would write to the same folder.

    Args:
        settings: of the trainer, by name; ``devices`` and ``num_nodes`` are set where they are left to the trainer.

    Raises:
        UserError: they ask for other processes than have been started.
    """
    given = os.environ
    if TorchElasticEnvironment.detect():
        starter, world = "torchrun", int(given["WORLD_SIZE"])
        nodes = max(1, world // int(given["LOCAL_WORLD_SIZE"]))
    elif SLURMEnvironment.detect() and int(given.get("SLURM_STEP_NUM_TASKS", "1")) > 1:  # by srun; sbatch starts one
        starter, world = "SLURM", int(given["SLURM_STEP_NUM_TASKS"])
        nodes = int(given.get("SLURM_STEP_NUM_NODES", "1"))
    else:
        return
    if world % nodes or (starter == "torchrun" and world // nodes != int(given["LOCAL_WORLD_SIZE"])):
        raise UserError(
            f"{starter} has started {world} processes, not equally many on each node: start as many on each"
        )
    local = world // nodes
    started = {"devices": local, "num_nodes": nodes}
    for option, count in started.items():
        wanted = settings[option]
        number = len(wanted) if isinstance(wanted, list) else wanted
        if wanted == "auto" or (option == "num_nodes" and wanted == 1):
            settings[option] = count
        elif str(number) != str(count):
            what = f"{local} processes on each node" if option == "devices" else f"processes on {count} nodes"
            raise UserError(
                f"--trainer.{option} {wanted}: {starter} has started {what}: leave it out, or start as many as you want"
            )


def connect_started_again(strategy: Any) -> None:
    """Connect processes that torchrun has started again, under names of their own.

    Its store may still have the addresses of the processes that died, and one of them would be taken for a new one's.
    """
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    environment = getattr(strategy, "cluster_environment", None)  # a strategy of one process has none
    if again == "0" or not isinstance(environment, TorchElasticEnvironment) or dist.is_initialized():
        return
    world = environment.world_size()
    stores: Any = dist  # typed as private there
    store = stores.TCPStore(environment.main_address, environment.main_port, world, is_master=False)
    backend, timeout = strategy._get_process_group_backend(), strategy._timeout
    names = stores.PrefixStore(f"started again {again}", store)
    dist.init_process_group(backend, store=names, rank=environment.global_rank(), world_size=world, timeout=timeout)


def use_our_launcher(trainer: Trainer) -> None:
    """Replace the trainer's launcher, if it starts the other processes as commands."""
    strategy: Any = trainer.strategy
    if type(given := strategy._launcher) is _SubprocessScriptLauncher:
        strategy._launcher = Launcher(given.cluster_environment, given.num_processes, given.num_nodes)


def parent() -> int | None:
    """The process that has started this one by a :class:`Launcher`."""
    given = os.environ.get(_PARENT, "")
    return os.getppid() if given == str(os.getppid()) else None


def leave_to_parent(signum: int) -> None:
    """Let the first process answer a signal that only this one has got, and wait for the end."""
    if (first := parent()) is not None:
        time.sleep(2)  # Ctrl-C reaches all processes, and a second signal to the first one would end it at once
        with contextlib.suppress(OSError):
            os.kill(first, signum)
        for _ in range(300):
            if os.getppid() != first:
                return
            time.sleep(0.1)
