"""Change the state of the process during a run (warnings, loggers, signal handlers), and restore it afterwards."""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from blockformer import signals

QUIET_LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric")
REPORTS = ("lightning.pytorch.profilers", "lightning.pytorch.callbacks.model_summary")  # asked for by an option
NOT_FOR_USERS = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    "It is recommended to use `self.log.*sync_dist=True",  # these figures are of all ranks already
    "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
    "Couldn't infer the batch indices",
    r"You passed `Trainer\(accelerator='cpu', precision='16-mixed'\)",  # refused
    r"`precision=(16|bf16)` is supported for historical reasons",
    "Total length of `list` across ranks is zero",  # nothing is held out, as was asked for
    r"The number of training batches .* is smaller than the logging interval",  # the last step is always reported
)


@contextmanager
def quiet_process() -> Iterator[None]:
    """Hide the tips and deprecations of Lightning and others, but not its warnings about the run.

    Afterwards the warnings filters, the levels of loggers and the environment are what they were before.
    """
    environment, levels = dict(os.environ), _levels()
    with warnings.catch_warnings():
        os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
        for name in QUIET_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        for name in REPORTS:
            logging.getLogger(name).setLevel(logging.INFO)
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=category)
        for message in NOT_FOR_USERS:
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        finally:
            for logger, level in levels.items():
                if logger.level != level:  # each call empties the caches of all loggers
                    logger.setLevel(level)
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)


def keep_handlers(trainer: Any) -> None:
    """Keep our handlers of signals when a trainer starts; those of Lightning communicate, and lose the exit status.

    Its handler for SIGUSR1, which requeues a job of SLURM, stays.
    """
    register = trainer._signal_connector.register_signal_handlers

    def and_restore() -> None:
        before = {signum: signal.getsignal(signum) for signum in signals.SIGNALS}
        register()
        if threading.current_thread() is threading.main_thread():
            for signum, handler in before.items():
                signal.signal(signum, handler)

    trainer._signal_connector.register_signal_handlers = and_restore


def _levels() -> dict[logging.Logger, int]:
    for name in (*QUIET_LOGGERS, *REPORTS):
        logging.getLogger(name)  # so that it exists, with its own level
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    return {logger: logger.level for logger in loggers if isinstance(logger, logging.Logger)}
