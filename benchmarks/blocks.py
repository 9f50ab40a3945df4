"""What each block costs in a small model, against the slot's usual block in the same model and the same run.

    python -m benchmarks.blocks [--length 512] [--dim 128] [--turns 5] [--out benchmarks/results/blocks.json]

The models are those of the block reference: two layers with the block at its defaults. Measures forward and backward of
the layers on a CPU with one thread, in processor time, so that other programs disturb little, and the bytes kept for
the backward pass. The two models take turns; the least time of each counts. The noise is the largest difference of a
usual block from itself. The site shows the results.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import blockformer as bf
from benchmarks.interleaved import machine
from blockformer.files import as_json, write_text
from blockformer.reference.small_recipe import small_recipe
from blocks.models.base import Model
from registry import entries, load_recipe
from registry.strict_yaml import parse_text

USUAL: Mapping[str, str] = {
    "mixer": "attention",
    "feedforward": "mlp",
    "norm": "layer",
    "residual": "pre",
    "layer": "sequential",
    "activation": "relu",
    "attention_positions": "none",
    "router": "top_k",
}
"""By slot, the block that the others are measured against."""
LEFT_OUT = {("mixer", "cross_attention")}
"""No other block stands in its place."""
Result = dict[str, Any]


def models(slot: str, name: str, dim: int, length: int) -> tuple[Model, Model]:
    """The small model with a block, and the same with the slot's usual block in its place."""
    text = small_recipe(slot, name)
    before, after = text.rsplit(name, 1)
    changes = {"dim": dim, "max_length": length}
    tree, usual = parse_text(text, name), parse_text(f"{before}{USUAL[slot]}{after}", USUAL[slot])
    return bf.build(load_recipe(tree, changes), seed=0), bf.build(load_recipe(usual, changes), seed=0)


def step(model: Model, ids: Tensor) -> None:
    """Forward up to the vectors before the head, and backward."""
    model.zero_grad(set_to_none=True)
    model(ids, hidden=True).sum().backward()


def kept(model: Model, ids: Tensor) -> int:
    """Bytes that a forward keeps for its backward pass, each storage counted once, without parameters."""
    owned = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = model(ids, hidden=True)
    del y
    return sum(found.values())


def measure(slot: str, name: str, dim: int, length: int, turns: int) -> Result:
    """Milliseconds, their ratio to the usual block's, and MiB kept."""
    pair = models(slot, name, dim, length)
    ids = torch.randint(256, (1, length), generator=torch.Generator().manual_seed(0))
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns + 1):
        for index in (0, 1) if turn % 2 else (1, 0):
            seconds = _timed(lambda index=index: step(pair[index], ids))
            if turn:  # the first is a warm-up
                times[index].append(seconds)
    own, usual = map(min, times)
    return {
        "slot": slot,
        "block": name,
        "against": USUAL[slot],
        "milliseconds": 1e3 * own,
        "time_ratio": own / usual,
        "kept_mib": kept(pair[0], ids) / 2**20,
    }


def _timed(run: Callable[[], None]) -> float:
    begun = time.process_time()
    run()
    return time.process_time() - begun


def measured(dim: int, length: int, turns: int) -> Iterator[Result]:
    """The results of all blocks of the slots that have a usual block."""
    for slot in USUAL:
        for name in entries(slot):
            if (slot, name) not in LEFT_OUT:
                yield measure(slot, name, dim, length, turns)


def main() -> None:
    """Measure all blocks and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/blocks.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: Result = {"machine": machine(), "dim": options.dim, "length": options.length, "turns": options.turns}
    results |= {"unit": "processor time of one thread, least of all turns", "noise": 0.0, "measured": []}
    for one in measured(options.dim, options.length, options.turns):
        results["measured"].append(one)
        if one["block"] == one["against"]:
            results["noise"] = max(results["noise"], abs(one["time_ratio"] - 1))
        print(f"{one['slot']:20} {one['block']:18} {one['milliseconds']:8.1f} ms ({one['time_ratio']:.2f})", flush=True)
    write_text(options.out, as_json(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
