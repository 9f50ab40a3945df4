"""How evenly tokens are spread over experts, and what makes them so."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]


def load(chosen: Tensor, experts: int, mask: Tensor | None = None) -> Tensor:
    """How many tokens chose each expert, (E,) float32.

    Args:
        chosen: (N, k) indices of the experts of each token.
        experts: E, how many there are.
        mask: (N,) bool, False for tokens that are not counted; None: all are.
    """
    counted = torch.ones_like(chosen) if mask is None else mask[:, None].expand_as(chosen)
    counts = torch.zeros(experts, dtype=torch.float32, device=chosen.device)
    return counts.scatter_add_(0, chosen.flatten(), counted.flatten().float())


def balance_loss(probabilities: Tensor, share: Tensor, mask: Tensor | None = None) -> Tensor:
    """E * sum over experts of f_e * P_e, a scalar; k if all experts are chosen equally often, more if they are not.

    f_e is the share of tokens that chose e, P_e the mean probability of e; gradients flow through P_e only. With k = 1
    this is the loss of Fedus et al., 2021, arXiv:2101.03961, equations 4 to 6.

    Args:
        probabilities: (N, E) that the router gives each expert, before it chooses.
        share: (E,) f, on all processes that train together.
        mask: (N,) bool, False for tokens that are not counted; None: all are.
    """
    tokens, experts = probabilities.shape
    kept = probabilities if mask is None else probabilities * mask[:, None]
    counted = max(tokens, 1) if mask is None else mask.sum().clamp(min=1)
    return experts * (share * kept.sum(0) / counted).sum()


class Balance:
    """What a router chose in one forward, and since the last update.

    The loss is not computed where the choice is made, so that a layer that is computed again to save memory runs the
    same operations again, finds nothing to record any more, and counts nothing twice.

    Args:
        experts: number of experts.
        coefficient: factor on the loss.
    """

    def __init__(self, experts: int, coefficient: float) -> None:
        self.experts, self.coefficient = experts, coefficient
        self.passes: list[tuple[Tensor, Tensor]] | None = None  # None: nothing is to be recorded
        self.mask: Tensor | None = None
        self.load: Tensor | None = None

    def begin(self, mask: Tensor | None) -> None:
        """Record the forward that comes, leaving out the tokens where ``mask`` (N,) is False."""
        self.passes, self.mask = [], mask

    def record(self, logits: Tensor, chosen: Tensor) -> None:
        """Note what was chosen (N, k) from what (N, E)."""
        if self.passes is not None:
            self.passes.append((logits, chosen))

    def loss(self, probabilities: Function, reduce: Function) -> Tensor | None:
        """The loss of the forward that was recorded, which ends here; its choices join the load.

        Args:
            probabilities: what the router makes of the logits.
            reduce: adds a tensor up over all processes that train together.

        Raises:
            RuntimeError: nothing was begun since the last loss.
        """
        if self.passes is None:
            raise RuntimeError(
                "a router has nothing to tell about: ask for the auxiliary loss once after each forward in training "
                "mode, and let the prepare of a layer call the prepare of its feed-forward"
            )
        passes, self.passes = self.passes, None
        losses: list[Tensor] = []
        for logits, chosen in passes:
            counts = reduce(load(chosen, self.experts, self.mask))
            self.load = counts if self.load is None else self.load + counts
            if self.coefficient:
                share = counts * chosen.shape[1] / counts.sum().clamp(min=1)
                losses.append(balance_loss(probabilities(logits), share, self.mask))
        return self.coefficient * sum(losses[1:], losses[0]) if losses else None

    def take_load(self) -> Tensor | None:
        """How many tokens chose each expert (E,) since this was last asked; None if nothing was recorded."""
        counts, self.load = self.load, None
        return counts

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to one forward and cannot be copied."""
        return {**self.__dict__, "passes": None, "mask": None}
