"""Choice of the next token: greedy, or drawn after temperature, top-k and top-p."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from blockformer.errors import UserError

TokenChooser = Callable[[Tensor], Tensor]
"""(N, V) logits -> (N,) ids, one for each row."""

NEVER = float("-inf")


def checked(logits: Tensor) -> Tensor:
    """The logits (..., V), unchanged.

    Raises:
        UserError: NaN or infinity is in them, so that no token is the most probable; -inf means never.
    """
    if not logits.amax(dim=-1).isfinite().all():
        raise UserError("the model's output is not finite: its weights are broken, or too large for this precision")
    return logits


def greedy(logits: Tensor) -> Tensor:
    """The most probable token of each row, (N, V) -> (N,)."""
    return logits.argmax(dim=-1)


class Sampler:
    """Draw each row's token at random, after temperature, then top-k, then top-p.

    Args:
        temperature: divides the logits.
        top_k: draw from the k most probable tokens only; None: from all.
        top_p: draw from the smallest set of tokens with this total probability only; None: from all.
        generator: source of randomness, on any device; the same state draws the same tokens. None: torch's own.

    Raises:
        ValueError: an argument is out of its range; raised at once, not at the first draw.
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: Generator | None = None,
    ) -> None:
        self.generator = generator
        self.filters: list[Callable[[Tensor], Tensor]] = [lambda logits: scale_temperature(logits, temperature)]
        if top_k is not None:
            self.filters.append(lambda logits: keep_top_k(logits, top_k))
        if top_p is not None:
            self.filters.append(lambda logits: keep_top_p(logits, top_p))
        for each in self.filters:
            each(torch.zeros(1, 1))  # raises for an argument out of range

    def __call__(self, logits: Tensor) -> Tensor:
        """(N, V) logits -> (N,) ids."""
        return self.draw(self.probabilities(logits)).to(logits.device)

    def probabilities(self, logits: Tensor) -> Tensor:
        """(..., V): of each token to be drawn, on the generator's device."""
        kept = logits.float()
        for each in self.filters:
            kept = each(kept)
        probabilities = checked(kept).softmax(dim=-1)
        return probabilities if self.generator is None else probabilities.to(self.generator.device)

    def draw(self, probabilities: Tensor) -> Tensor:
        """(N, V), which need not sum to 1 -> (N,) ids."""
        return torch.multinomial(probabilities, 1, generator=self.generator)[:, 0]

    def uniform(self) -> float:
        """A number from 0 to 1, 1 excluded."""
        device = "cpu" if self.generator is None else self.generator.device
        return float(torch.rand((), generator=self.generator, device=device))


sampler = Sampler
"""Makes a :class:`Sampler`."""


def scale_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide logits (..., V): below 1 sharpens the distribution, above 1 flattens it.

    Raises:
        ValueError: the temperature is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0; use greedy decoding for the limit at 0")
    return logits / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Set all but the ``k`` largest logits (..., V) to -inf; of equal ones, exactly ``k`` stay in total.

    Fan et al., 2018, arXiv:1805.04833.

    Raises:
        ValueError: ``k`` is below 1.
    """
    if k < 1:
        raise ValueError(f"top_k={k} leaves no token to draw; it must be at least 1")
    values, indices = logits.topk(min(k, logits.shape[-1]), dim=-1)
    return torch.full_like(logits, NEVER).scatter(-1, indices, values)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Set all logits (..., V) to -inf but the nucleus: the fewest tokens whose probabilities sum to at least ``p``.

    Holtzman et al., 2019, arXiv:1904.09751.

    Raises:
        ValueError: ``p`` is not above 0 and at most 1.
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p={p} must be above 0 and at most 1")
    ordered, indices = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(dim=-1)
    more_probable = probabilities.cumsum(dim=-1) - probabilities  # total probability of the tokens before each token
    nucleus = more_probable < p
    nucleus[..., 0] = True  # rounding must not lose the first
    return torch.full_like(logits, NEVER).scatter(-1, indices, ordered.masked_fill(~nucleus, NEVER))
