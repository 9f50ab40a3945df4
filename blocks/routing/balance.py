"""Load of experts and the load-balancing loss."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from blocks.base import Context, Recorded

Function = Callable[[Tensor], Tensor]


def counted_tokens(context: Context) -> Tensor | None:
    """(N,) bool over the tokens of a forward, False for padding; None: no padding."""
    mask = context.attention_mask
    return None if mask is None else mask[:, mask.shape[1] - context.length :].flatten()


def tokens_per_expert(chosen: Tensor, experts: int, mask: Tensor | None = None) -> Tensor:
    """Number of tokens routed to each expert, (E,) float32.

    Args:
        chosen: (N, k) indices of the experts of each token.
        experts: E, the number of experts.
        mask: (N,) bool, False for tokens that are not counted; None: count all.
    """
    counted = torch.ones_like(chosen) if mask is None else mask[:, None].expand_as(chosen)
    counts = torch.zeros(experts, dtype=torch.float32, device=chosen.device)
    return counts.scatter_add_(0, chosen.flatten(), counted.flatten().float())


def balance_loss(probabilities: Tensor, share: Tensor, mask: Tensor | None = None) -> Tensor:
    """E * sum over experts of f_e * P_e, a scalar; k if all experts are chosen equally often, larger otherwise.

    f_e is the fraction of tokens routed to e, P_e the mean probability of e; gradients flow through P_e only. With k =
    1 this is the loss of Fedus et al., 2021, arXiv:2101.03961, equations 4 to 6.

    Args:
        probabilities: (N, E), of each expert, before the choice.
        share: (E,) f, over all processes of the training.
        mask: (N,) bool, False for tokens that are not counted; None: count all.
    """
    tokens, experts = probabilities.shape
    kept = probabilities if mask is None else probabilities * mask[:, None]
    counted = max(tokens, 1) if mask is None else mask.sum().clamp(min=1)
    return experts * (share * kept.sum(0) / counted).sum()


class Balance:
    """The choices of a router in one forward, and the load since the last update.

    Args:
        experts: number of experts.
        coefficient: factor on the loss.
    """

    def __init__(self, experts: int, coefficient: float) -> None:
        self.experts, self.coefficient = experts, coefficient
        self.passes = Recorded[tuple[Tensor, Tensor]]("feed-forward")
        self.mask: Tensor | None = None
        self.load: Tensor | None = None

    def begin(self, mask: Tensor | None) -> None:
        """Start recording a forward; tokens where ``mask`` (N,) is False are not counted."""
        self.passes.begin()
        self.mask = mask

    def record(self, logits: Tensor, chosen: Tensor) -> None:
        """Record the chosen experts (N, k) and the logits (N, E) of a forward."""
        self.passes.add((logits, chosen))

    def loss(self, probabilities: Function, reduce: Function) -> Tensor | None:
        """Stop recording, add the choices to the load and return the loss of the recorded forward.

        Args:
            probabilities: maps logits to the router's probabilities.
            reduce: sums a tensor over all processes of the training.

        Raises:
            RuntimeError: no forward was recorded since the last loss.
        """
        losses: list[Tensor] = []
        for logits, chosen in self.passes.take():
            counts = reduce(tokens_per_expert(chosen, self.experts, self.mask))
            self.load = counts if self.load is None else self.load + counts
            if self.coefficient:
                share = counts * chosen.shape[1] / counts.sum().clamp(min=1)
                losses.append(balance_loss(probabilities(logits), share, self.mask))
        return self.coefficient * sum(losses[1:], losses[0]) if losses else None

    def take_load(self) -> Tensor | None:
        """Return and reset the number of tokens per expert (E,); None: nothing was recorded."""
        counts, self.load = self.load, None
        return counts

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the tensors of a forward, which cannot be copied."""
        return {**self.__dict__, "mask": None}
