"""Behaves as `blockformer fit` does towards a study, without a model: lock, checkpoint, metrics, signals."""

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PRETENDED = (sys.executable, __file__)


def instead(*program: str) -> Callable[..., Any]:
    """Put in the place of :func:`blockformer.studies.processes.begin`, begins another program than `blockformer`."""
    from blockformer.studies.processes import start

    return lambda arguments, environment, log, kept, forked: start([*program, *arguments], environment, log, kept)


if __name__ == "__main__":
    options = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=False))
    settings = json.loads(Path(options["--config"]).read_text())
    folder = Path(options["--run.root"]) / options["--run.name"]
    time.sleep(settings.get("start", 0))
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / "run.lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"{folder} is being trained by another process: wait for it")
        sys.exit(2)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, frame: settings.get("deaf") or stopped.append(signum))
    saved, total = folder / "step", settings["trainer"]["max_steps"]
    with (folder / "begun").open("a") as stream:
        print(os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"), file=stream)
    step = int(saved.read_text()) if saved.exists() else 0
    while step < total:
        time.sleep(0.05)
        step += 1
        saved.write_text(str(step))
        with (folder / "steps").open("a") as stream:
            print(step, file=stream)
        if stopped:
            print("stopped by SIGTERM")
            sys.exit(143)
    row = {"step": total, "tokens": 10 * total, "seconds": 0.05 * total, "train/loss": 1.5, "val/loss": 1.0}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
