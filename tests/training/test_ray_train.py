"""Runs whose processes are workers of Ray Train."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from blockformer.assembly.checkpoint import read_checkpoint
from blockformer.training.loggers.file_logger import read_rows
from tests.training.waiting import wait_for

ROOT, STEPS = Path(__file__).parents[2], 40
PROGRAM = """
from ray.train import FailureConfig, RunConfig, ScalingConfig
from blockformer.training.ray_train import ray_trainer

settings = {"trainer.accelerator": "cpu", "trainer.strategy": "fsdp2", "data.length": 32, "data.max_bytes": 100000}
settings |= {"trainer.max_steps": %d, "trainer.log_every_n_steps": 1, "run.wandb": "disabled", "run.name": "together"}
settings |= {"run.save_every": 2, "ckpt_path": "last"}
ray_trainer(
    "tiny_decoder",
    {"decoder.depth": 1},
    settings,
    scaling_config=ScalingConfig(num_workers=2),
    run_config=RunConfig(storage_path=%r, failure_config=FailureConfig(max_failures=1)),
).fit()
"""


def descendants(pid: int) -> list[int]:
    children = [int(one) for task in Path(f"/proc/{pid}/task").glob("*/children") for one in task.read_text().split()]
    return children + [one for child in children for one in descendants(child)]


def workers(process: "subprocess.Popen[str]") -> list[int]:
    found = [(pid, Path(f"/proc/{pid}/cmdline")) for pid in descendants(process.pid)]
    return [pid for pid, line in found if line.exists() and line.read_text().startswith("ray::RayTrainWorker")]


@pytest.mark.slow
def test_workers_of_ray_train_together_and_go_on_when_one_has_died(tmp_path: Path) -> None:
    program, log = tmp_path / "program.py", tmp_path / "log.txt"
    program.write_text(PROGRAM % (STEPS, str(tmp_path / "ray")))
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    with log.open("w") as written:
        process = subprocess.Popen(
            [sys.executable, str(program)], cwd=tmp_path, env=environment, stdout=written, stderr=subprocess.STDOUT
        )
    run = tmp_path / "runs" / "together"
    try:
        wait_for(lambda: (run / "checkpoints" / "last.ckpt").exists(), process)
        os.kill(workers(process)[-1], signal.SIGKILL)
        process.wait(timeout=600)
    finally:
        process.terminate()
    assert process.returncode == 0, log.read_text()
    output = (run / "log.txt").read_text()
    assert output.count("starting ...\n") == 2, output
    rows = [row["step"] for row in read_rows(run / "metrics.jsonl") if "train/loss" in row]
    assert rows == list(range(1, STEPS + 1))
    assert len(read_checkpoint(run / "checkpoints" / "last.ckpt")["random_states"]) == 2
