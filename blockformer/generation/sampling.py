"""From logits to the next token."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from blockformer.generation.filters import keep_top_k, keep_top_p, scale_temperature

Choose = Callable[[Tensor], Tensor]
"""(N, V) logits -> (N,) ids, one for each row."""


def greedy(logits: Tensor) -> Tensor:
    """The most probable token of each row, (N, V) -> (N,)."""
    return logits.argmax(dim=-1)


def sampler(
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: Generator | None = None,
) -> Choose:
    """Draw each row's token at random from what temperature, then top-k, then top-p leave of its distribution.

    Args:
        temperature: divides the logits.
        top_k: draw among this many tokens; None: all.
        top_p: draw among the fewest tokens that have this probability together; None: all.
        generator: source of randomness, on any device; the same state draws the same tokens. None: torch's own.

    Raises:
        ValueError: one of these is out of its range; said at once, not at the first draw.
    """
    filters: list[Callable[[Tensor], Tensor]] = [lambda logits: scale_temperature(logits, temperature)]
    if top_k is not None:
        filters.append(lambda logits: keep_top_k(logits, top_k))
    if top_p is not None:
        filters.append(lambda logits: keep_top_p(logits, top_p))

    def choose(logits: Tensor) -> Tensor:
        kept = logits.float()
        for reshape in filters:
            kept = reshape(kept)
        probabilities = kept.softmax(dim=-1)
        if generator is not None:
            probabilities = probabilities.to(generator.device)
        return torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(logits.device)

    for reshape in filters:
        reshape(torch.zeros(1, 1))
    return choose
