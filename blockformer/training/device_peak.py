"""The floating-point operations that a device can do in a second, to say which share of them a run uses."""

import time
import warnings
from functools import lru_cache

import torch
from lightning.fabric.utilities.throughput import get_available_flops

TRIALS = 5
SIZES = {"cpu": 512}  # of the matrices of a measurement; large enough that more would not be faster
LARGE = 8192


@lru_cache
def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second: what the maker of a known GPU states, else the best of a few products of large matrices.

    Args:
        device: the device; of a CPU, with as many threads as torch uses now.
        dtype: of the products.
    """
    known = None
    if device.type == "cuda":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about GPUs that are not in the list, which are measured
            known = get_available_flops(device, dtype)
    return float(known or _measured(device, dtype))


def _measured(device: torch.device, dtype: torch.dtype) -> float:
    size = SIZES.get(device.type, LARGE)
    one = torch.ones(size, size, device=device, dtype=dtype)  # drawing numbers would change the run's
    best = float("inf")
    for _ in range(TRIALS):
        begun = time.perf_counter()
        product = one @ one
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


def compute_dtype(precision: str) -> torch.dtype:
    """The type of the products of a trainer with this precision, such as "bf16-mixed"."""
    if precision.startswith("bf16"):
        return torch.bfloat16
    return torch.float16 if precision.startswith("16") else torch.float32
