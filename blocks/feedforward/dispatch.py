"""The order of tokens by expert, to dispatch them to experts and to gather their outputs."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function


class _Take(Function):
    """Select rows by index, each equally often; the backward pass selects too, so that it adds in a fixed order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.rows = x.shape[0]
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (places,), (grad,) = ctx.saved_tensors, grads
        taken = grad.index_select(0, places)
        times = len(places) // max(ctx.rows, 1)
        return taken.view(ctx.rows, times, grad.shape[1]).sum(1) if times != 1 else taken, None, None


class ExpertOrder:
    """The order of tokens by expert.

    Args:
        chosen: (N, k) indices of the experts of each token.
        experts: number of experts.

    Attributes:
        offsets: (experts,) int32, end of each expert's rows.
    """

    def __init__(self, chosen: Tensor, experts: int) -> None:
        flat = chosen.flatten()
        self.top_k = chosen.shape[1]
        ordered, self.order = flat.sort(stable=True)
        self.places = torch.empty_like(self.order).scatter_(0, self.order, torch.arange(len(flat), device=flat.device))
        every = torch.arange(experts, device=flat.device)
        self.offsets = torch.searchsorted(ordered, every, right=True, out_int32=True)

    def spread(self, x: Tensor) -> Tensor:
        """(N, D) -> (N * k, D), one copy of a token per chosen expert, sorted by expert."""
        return _taken(x, self.order // self.top_k, self.places)

    def sorted(self, values: Tensor) -> Tensor:
        """(N, k) -> (N * k,), one value of each token and chosen expert, sorted by expert."""
        return _taken(values.reshape(-1, 1), self.order, self.places)[:, 0]

    def sorted_rows(self, x: Tensor) -> Tensor:
        """(N * k, D) -> (N * k, D), from the order of tokens to that of experts."""
        return _taken(x, self.order, self.places)

    def restored(self, y: Tensor) -> Tensor:
        """(N * k, D) -> (N * k, D), from the order of experts to that of tokens, those of a token side by side."""
        return _taken(y, self.places, self.order)

    def gather(self, y: Tensor, weights: Tensor) -> Tensor:
        """(N * k, D) -> (N, D), the sum over a token's experts of their outputs times ``weights`` (N, k)."""
        of_tokens = _taken(y, self.places, self.order).view(*weights.shape, y.shape[1])
        return (of_tokens * weights.to(y.dtype)[..., None]).sum(1)


def _taken(x: Tensor, index: Tensor, places: Tensor) -> Tensor:
    return cast("Any", _Take).apply(x, index, places)
