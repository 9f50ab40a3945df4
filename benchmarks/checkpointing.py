"""Activation checkpointing: what is kept for the backward pass, and time. Compilation: as a whole and by layer.

`python -m benchmarks.checkpointing` prints both for a model of 12 layers on a CPU; `--compile` the second part too.
"""

import argparse
import time
from collections.abc import Callable

import torch

import blockformer as bf
from blockformer.inspection.batch import logits_of, mean_loss, random_batch
from blockformer.inspection.memory import memory
from blockformer.training.activation_checkpointing import Checkpointing, checkpoint_layers
from blockformer.training.compilation import Compile, compile_model
from blocks.models.base import Model
from registry import load_recipe

DEEP = {"decoder.depth": 12}
WIDE = {**DEEP, "dim": 128, "decoder.layer.feedforward.hidden": 384, "max_length": 512}
ROWS, LENGTH, TURNS = 2, 512, 3
HOW: tuple[Checkpointing, ...] = ("none", "selective", "layer")


def step_of(model: Model, length: int) -> Callable[[], None]:
    """A forward and a backward pass."""
    batch = random_batch(model, ROWS, length, torch.Generator().manual_seed(0))

    def step() -> None:
        mean_loss(logits_of(model, batch), batch).backward()
        model.zero_grad()

    return step


def seconds(step: Callable[[], None]) -> float:
    """Processor time, which other programs do not change much."""
    begin = time.process_time()
    step()
    return time.process_time() - begin


def measure_checkpointing() -> None:
    """Print what each way keeps, and the least time of some turns, relative to keeping everything."""
    recipe = load_recipe("tiny_decoder", WIDE)
    model = bf.build(recipe).train()
    step, times = step_of(model, LENGTH), dict.fromkeys(HOW, float("inf"))
    for _ in range(TURNS):
        for how in HOW:
            checkpoint_layers(model, how)
            times[how] = min(times[how], seconds(step))
    kept = {how: sum(memory(recipe, "fp32", ROWS, LENGTH, how).activations.values()) for how in HOW}
    for how in HOW:
        share, slower = kept[how] / kept["none"], times[how] / times["none"]
        print(f"{how:<10} keeps {kept[how] / 2**20:6.1f} MiB ({share:4.0%}), time {slower:.2f}")


def measure_compilation() -> None:
    """Print how long the first step takes with each way to compile."""
    ways: tuple[Compile, ...] = (True, "layer")
    times: list[float] = []
    for how in ways:
        torch.compiler.reset()
        model = bf.build("tiny_decoder", DEEP).train()
        compile_model(model, how)
        with torch._inductor.utils.fresh_inductor_cache():
            times.append(seconds(step_of(model, 64)))
        print(f"compile {str(how).lower():<6} first step {times[-1]:6.1f} s of processor time", flush=True)
    print(f"by layer: {times[1] / times[0]:.2f} of the time")


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compile", action="store_true", help="measure compilation too, which takes minutes")
    torch.set_num_threads(1)
    options = parser.parse_args()
    measure_checkpointing()
    if options.compile:
        measure_compilation()


if __name__ == "__main__":
    main()
