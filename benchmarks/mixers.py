"""Time and memory of attention by option and length, against full causal attention in the same run.

    python -m benchmarks.mixers [--lengths 512 1024 2048 4096 8192] [--turns 5] [--limit 600]
        [--out benchmarks/results/mixers.json] [--plot docs/mixers.svg]

Measures forward and backward of one mixer on a CPU with one thread, in seconds of processor time, so that other
programs disturb little, and bytes kept for the backward pass. The options of a length take turns with full attention;
the least time of each counts. Results are written after every length, so that an end before the last loses nothing.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.interleaved import machine
from blockformer.files import as_json, write_text
from blocks.attention.softmax import MultiHeadAttention
from blocks.base import Context, Site
from blocks.init.keyed import initialise
from blocks.init.schemes import Xavier
from blocks.positions.alibi import ALiBi
from blocks.positions.relative import RelativeBias

DIM, HEADS, FULL = 128, 4, "full"
DOCUMENT, WINDOW = 256, 128
OPTIONS: dict[str, dict[str, Any]] = {
    FULL: {},
    "window": {"window": WINDOW},
    "documents": {},
    "padding": {},
    "alibi": {"positions": ALiBi},
    "t5": {"positions": RelativeBias},
    "sinks": {"sinks": True},
    "softcap": {"softcap": 30.0},
    "window, sinks": {"window": WINDOW, "sinks": True},
    "window, t5": {"window": WINDOW, "positions": RelativeBias},
    "grouped keys": {"kv_heads": 1},
}
Result = dict[str, Any]
Step = Callable[[], None]


def mixer(option: str, backend: str = "auto") -> MultiHeadAttention:
    """The mixer with an option, with initial values."""
    block = MultiHeadAttention(Site(dim=DIM), **{"heads": HEADS, "backend": backend, **OPTIONS[option]})
    initialise(block, Xavier(), seed=0)
    return block


def context(option: str, x: Tensor) -> Context:
    """The context of vectors with an option: documents of equal lengths, or an eighth of padding."""
    index = torch.arange(x.shape[1])[None].expand(x.shape[0], -1)
    if option == "documents":
        return Context.of(x, documents=index // DOCUMENT)
    return Context.of(x, attention_mask=index < x.shape[1] * 7 // 8) if option == "padding" else Context.of(x)


def run(block: MultiHeadAttention, option: str, x: Tensor) -> Tensor:
    """The output for vectors."""
    given = context(option, x)
    block.prepare(given)
    return block(x, given)


def step(block: MultiHeadAttention, option: str, x: Tensor) -> None:
    """Forward and backward."""
    block.zero_grad(set_to_none=True)
    run(block, option, x).sum().backward()


def kept(block: MultiHeadAttention, option: str, x: Tensor) -> int:
    """Bytes that a forward keeps for its backward pass, each storage counted once, without parameters."""
    owned = {parameter.untyped_storage().data_ptr() for parameter in block.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = run(block, option, x)
    del y
    return sum(found.values())


def measure(length: int, turns: int, backend: str = "auto") -> list[Result]:
    """Milliseconds, bytes kept, and the ratios of both to full attention, of every option at a length."""
    x = torch.randn(1, length, DIM, generator=torch.Generator().manual_seed(0)).requires_grad_()
    blocks = {option: mixer(option, backend) for option in OPTIONS}
    steps: dict[str, Step] = {option: partial(step, block, option, x) for option, block in blocks.items()}
    times: dict[str, list[float]] = {option: [] for option in steps}
    for turn in range(turns + 1):
        for option in list(steps) if turn % 2 else reversed(steps):
            begun = time.process_time()
            steps[option]()
            if turn:  # the first is a warm-up
                times[option].append(time.process_time() - begun)
    memory = {option: kept(block, option, x) for option, block in blocks.items()}
    least = {option: min(of) for option, of in times.items()}
    return [
        {
            "option": option,
            "length": length,
            "milliseconds": 1e3 * least[option],
            "kept_mib": memory[option] / 2**20,
            "time_ratio": least[option] / least[FULL],
            "kept_ratio": memory[option] / memory[FULL],
        }
        for option in OPTIONS
    ]


def draw(results: Result, path: Path) -> None:
    """Time over length of each option, as a vector graphic."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "blockformer", "font.size": 9})
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log", xlabel="tokens", ylabel="milliseconds, forward and backward")
    for option in OPTIONS:
        points = sorted((one["length"], one["milliseconds"]) for one in results["measured"] if one["option"] == option)
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=option)
    lengths = sorted({one["length"] for one in results["measured"]})
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths], minor=False)
    axes.set_xticks([], minor=True)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure all lengths that the time allows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--limit", type=float, default=600, help="seconds after which no further length begins")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/mixers.json"))
    parser.add_argument("--plot", type=Path, default=Path("docs/mixers.svg"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: Result = {"machine": machine(), "load": _load(), "dim": DIM, "heads": HEADS, "turns": options.turns}
    results |= {"unit": "processor time of one thread, least of all turns", "measured": [], "left_out": []}
    begun = time.perf_counter()
    for length in options.lengths:
        if time.perf_counter() - begun > options.limit:
            results["left_out"].append(length)
            continue
        results["measured"] += measure(length, options.turns)
        results["seconds"] = time.perf_counter() - begun
        write_text(options.out, as_json(results, indent=1) + "\n")
        for one in results["measured"][-len(OPTIONS) :]:
            print(
                f"{one['length']:>6} {one['option']:14} {one['milliseconds']:8.1f} ms ({one['time_ratio']:.2f}), "
                f"{one['kept_mib']:6.1f} MiB kept ({one['kept_ratio']:.2f})",
                flush=True,
            )
    write_text(options.out, as_json(results, indent=1) + "\n")
    draw(results, options.plot)


def _load() -> float:
    """Processes that wanted a processor over the last minute, a measure of how busy the machine was."""
    import os

    return round(os.getloadavg()[0], 1)


if __name__ == "__main__":
    main()
