"""Compare the train steps of two models in one run, turn by turn, so that a noisy machine disturbs both alike."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Step = Callable[[], None]


def train_step(model: nn.Module, logits: Callable[[Tensor], Tensor], tokens: Tensor) -> Step:
    """Forward, loss and backward of a language model on ``tokens`` (B, T+1)."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        y = logits(tokens[:, :-1])
        nn.functional.cross_entropy(y.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        if tokens.is_cuda:
            torch.cuda.synchronize()

    return step


def ratio(ours: Step, theirs: Step, *, turns: int, warm_up: int = 3) -> tuple[float, float, float]:
    """Median seconds of each step, and the median over the turns of ours / theirs; who goes first alternates."""
    for _ in range(warm_up):
        ours()
        theirs()
    times: list[tuple[float, float]] = []
    for turn in range(turns):
        first, second = (ours, theirs) if turn % 2 == 0 else (theirs, ours)
        a, b = _timed(first), _timed(second)
        times.append((a, b) if turn % 2 == 0 else (b, a))
    own, other = zip(*times, strict=True)
    return statistics.median(own), statistics.median(other), statistics.median(a / b for a, b in times)


def in_turns(
    steps: Mapping[str, Step], *, turns: int, warm_up: int = 3, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each step in each turn; the order of the steps is reversed in every second turn.

    Args:
        steps: by name, what is measured.
        turns: how often each.
        warm_up: how often each before.
        clock: time.process_time where other programs keep the processor busy.
    """
    for step in steps.values():
        for _ in range(warm_up):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(turns):
        for name in list(steps) if turn % 2 == 0 else reversed(steps):
            times[name].append(_timed(steps[name], clock))
    return times


def _timed(step: Step, clock: Callable[[], float] = time.perf_counter) -> float:
    begin = clock()
    step()
    return clock() - begin


def kept_for_backward(model: nn.Module, logits: Callable[[Tensor], Tensor], tokens: Tensor) -> int:
    """Bytes of the activations that a forward keeps for its backward, each storage counted once."""
    owned = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = logits(tokens[:, :-1])
    del y
    return sum(kept.values())


def machine() -> str:
    """What the figures were taken on."""
    import platform

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return f"{device}, torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}"
