"""The loss over a large vocabulary in parts against all logits at once: time, and the largest memory of loss and head.

python -m benchmarks.vocabulary_loss [--vocab-size 131072] [--tokens 1024] [--dim 256] [--turns 5] [--threads 2]
"""

import argparse

import torch
from torch import Tensor

from benchmarks.interleaved import Step, machine, ratio
from blockformer import build
from blockformer.studies.training_step import peak_of
from blockformer.training.objectives.vocabulary_loss import LossTerms, loss_of_hidden, rows_at_once
from blocks.models.base import Model


def step(model: Model, hidden: Tensor, targets: Tensor, chunk: int | None) -> Step:
    """Head, loss and their backward pass."""

    def run() -> None:
        model.zero_grad(set_to_none=True)
        given = hidden.detach().requires_grad_()
        loss_of_hidden(model, given, targets, LossTerms(), chunk)[0].backward()
        if given.is_cuda:
            torch.cuda.synchronize()

    return run


def main() -> None:
    """Print the ratios of time and memory, for a head of its own and one that is tied to the embedding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"vocab_size": 131072, "tokens": 1024, "dim": 256, "turns": 5, "threads": 2}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{machine()}; {vars(options)}, {rows_at_once(options.vocab_size, options.tokens)} rows in a part")
    for head in ("own", "tied"):
        overrides = {"dim": options.dim, "vocab_size": options.vocab_size, "decoder.depth": 1, "head": head}
        model = build("tiny_decoder", overrides).to(device)
        hidden = torch.randn(1, options.tokens, options.dim, device=device)
        targets = torch.randint(options.vocab_size, (1, options.tokens), device=device)

        parts, whole = (step(model, hidden, targets, chunk) for chunk in (None, 0))
        own, other, times = ratio(parts, whole, turns=options.turns, warm_up=1)
        memory: list[int] = []
        for one in (parts, whole):
            model.zero_grad(set_to_none=True)
            memory.append(peak_of(one, gpu=device == "cuda"))
        print(f"head {head}: {own:.2f} s in parts, {other:.2f} s at once, ratio {times:.2f}")
        print(f"head {head}: {memory[0] / 2**20:,.0f} MiB in parts, {memory[1] / 2**20:,.0f} MiB at once, ", end="")
        print(f"ratio {memory[0] / memory[1]:.3f}")


if __name__ == "__main__":
    main()
