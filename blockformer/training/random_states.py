"""The states of the random generators of a process: Python's, NumPy's and torch's."""

import random
from typing import Any

import numpy as np
import torch

State = dict[str, Any]


def seed(run: int, rank: int, step: int) -> None:
    """Seed Python, NumPy and torch from the run's seed, the rank and the step."""
    words = np.random.SeedSequence([run, rank, step]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))


def current() -> State:
    """The states of this process's random generators, as tensors and plain data."""
    numpy: dict[str, Any] = np.random.get_state(legacy=False)
    keys = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    numpy = numpy | {"state": {"key": keys, "pos": int(numpy["state"]["pos"])}}
    state: State = {"torch": torch.get_rng_state(), "numpy": numpy, "python": random.getstate()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore(state: State) -> None:
    """Restore the states that :func:`current` returned."""
    torch.set_rng_state(state["torch"])
    numpy = state["numpy"]
    keys = numpy["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state(numpy | {"state": {"key": keys, "pos": numpy["state"]["pos"]}})
    random.setstate(state["python"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
