"""Find the best learning rate at several widths, with `init: mup` and without it: `python -m benchmarks.mup`.

A decoder is trained on the built-in docstrings, byte by byte, at each width with each learning rate; only `dim`
differs. The validation losses and the best rate of each width go into a JSON file after every run, so that the same
command continues where it was stopped. At the base width both inits are the same, to the last bit, so that width is
trained once.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import blockformer as bf
from blockformer.data.module import TextData
from blockformer.files import write_text
from blockformer.studies.context import environment
from blockformer.training.objectives import CausalLM
from blockformer.training.optimizers import OptimizerSettings

WIDTHS = (64, 128, 256)
RATES = tuple(2.0**power for power in range(-10, -3))
WARMUP, LENGTH, BATCH, VALIDATION = 10, 32, 4, 32  # steps, tokens, rows, batches
INITS = ("mup", "normal")


def recipe(width: int, init: str) -> dict[str, Any]:
    """The model; its heads and hidden layers grow with `dim`."""
    inner = {"type": "normal", "std": 0.05}
    chosen = {"type": "mup", "base_width": WIDTHS[0], "inner": inner} if init == "mup" else inner
    layer = {"mixer": {"heads": 4, "positions": "rotary"}, "feedforward": "mlp", "residual": {"norm": "rms"}}
    sizes = {"dim": width, "vocab_size": 260, "max_length": LENGTH, "init": chosen}
    stack = {"depth": 2, "layer": layer, "norm": "rms"}
    return {"type": "decoder_only", **sizes, "embedding": {"positions": "none"}, "decoder": stack}


def text() -> TextData:
    """The built-in docstrings of Python packages, as bytes."""
    sizes = {"max_bytes": 300_000, "length": LENGTH, "batch_size": BATCH}
    return TextData(dataset="docstrings", tokenizer="bytes", objective=CausalLM(), **sizes)


def trained_loss(data: TextData, width: int, init: str, rate: float, steps: int) -> float:
    """The validation loss in nats per byte after a run; infinite if it diverges."""
    loader, model = data.loader("train"), bf.build(recipe(width, init))
    settings = OptimizerSettings(lr=rate, warmup_steps=WARMUP, schedule="linear")
    optimizer = settings.make(model.train(), fused=False)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * settings.factor(step + 1, steps)
        optimizer.zero_grad()
        loss = _loss(model, loader.batch(step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        batches = [batch for _, batch in zip(range(VALIDATION), data.loader("validation"), strict=False)]
        mean = float(torch.stack([_loss(model.eval(), batch) for batch in batches]).mean())
    return mean if math.isfinite(mean) else math.inf


def _loss(model: Any, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch["tokens"]).flatten(0, 1), batch["targets"].flatten())


def best_rates(losses: dict[str, float]) -> dict[str, dict[str, float]]:
    """By init and width, the rate with the lowest loss, of all that were run."""
    best: dict[str, dict[str, float]] = {}
    for init in INITS:
        for width in WIDTHS:
            found = {rate: losses[key] for rate in RATES if (key := _key(width, init, rate)) in losses}
            if len(found) == len(RATES):
                best.setdefault(init, {})[str(width)] = min(found, key=found.__getitem__)
    return best


def _key(width: int, init: str, rate: float) -> str:
    return f"{width} {'any' if width == WIDTHS[0] else init} {rate:g}"


def measure(out: Path, steps: int) -> dict[str, Any]:
    """Train what the file lacks, and write it.

    Raises:
        SystemExit: the file has runs of another length.
    """
    data: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {"losses": {}}
    if data.setdefault("steps", steps) != steps:
        raise SystemExit(f"{out} has runs of {data['steps']} steps, not {steps}: give another --out")
    rows = text()
    for width in WIDTHS:
        for init in INITS:
            for rate in RATES:
                if (key := _key(width, init, rate)) not in data["losses"]:
                    data["losses"][key] = trained_loss(rows, width, init, rate, steps)
                    data |= {"best": best_rates(data["losses"]), "environment": environment()}
                    write_text(out, json.dumps(data, indent=1) + "\n")
    return data


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing, and print the losses and the best rate of each width."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps of a run")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/mup.json"))
    options = parser.parse_args(arguments)
    data = measure(options.out, options.steps)
    print(f"{'init':<8}{'width':>6}", *(f"{rate:>8.2g}" for rate in RATES), "    best")
    for init in INITS:
        for width in WIDTHS:
            losses = (f"{data['losses'][_key(width, init, rate)]:>8.3f}" for rate in RATES)
            print(f"{init:<8}{width:>6}", *losses, f"{data['best'][init][str(width)]:>8.2g}")


if __name__ == "__main__":
    main()
