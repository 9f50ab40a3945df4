"""Train runs one after another by several processes, all forks of this one, which has loaded everything once.

    python -m tests.training.strategy_runs RUNS.json

The file has a list of [number of processes, recipe, overrides, settings]; runs of one number stand together.
"""

import json
import os
import socket
import sys
import traceback
from itertools import groupby
from pathlib import Path
from typing import Any

import blockformer.training.lightning_cli  # noqa: F401  (loaded before the forks)
from blockformer.training import compilation
from blockformer.training.run import train

compilation.compile_model.__defaults__ = ("eager",)  # the same graphs, without minutes of C++


def train_all(rank: int, world: int, port: int, runs: list[list[Any]]) -> int:
    """As one of the processes that torchrun starts; the first run connects them."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0}
    os.environ.update({name: str(number) for name, number in numbers.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="tests")
    try:
        for _, recipe, overrides, settings in runs:
            train(recipe, overrides, settings)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main(path: str) -> int:
    failed = 0
    for world, runs in groupby(json.loads(Path(path).read_text()), key=lambda run: run[0]):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        given = list(runs)
        children: list[int] = []
        for rank in range(world):
            if (child := os.fork()) == 0:
                os._exit(train_all(rank, world, port, given))
            children.append(child)
        failed += sum(os.waitpid(child, 0)[1] != 0 for child in children)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
