"""A linear projection that many experts can share."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.base.grouped import group_of_rows, grouped_linear
from blocks.base.site import Site


class Linear(nn.Linear):
    """x W^T + b; at a site of experts, each expert has its own W and b, and all are computed at once.

    Args:
        site: where the block sits that the projection belongs to.
        in_features: width of what comes in.
        out_features: width of what goes out.
        bias: whether there is a b.

    Attributes:
        weight: (out, in), or (experts, out, in).
        bias: (out,), or (experts, out).
        reduce: adds up the processes' results where tensor parallelism cuts by rows; None: it is not cut.
    """

    def __init__(self, site: Site, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias=bias)  # pyright: ignore[reportUnknownMemberType]
        self.experts = site.experts
        self.reduce: Callable[[Tensor], Tensor] | None = None
        if site.experts is not None:
            self.weight = nn.Parameter(self.weight.new_empty(site.experts, out_features, in_features))
            self.bias = nn.Parameter(self.weight.new_empty(site.experts, out_features)) if bias else None
            self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = self.in_features**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor, offsets: Tensor | None = None) -> Tensor:
        """(..., in) -> (..., out); for experts (N, in) -> (N, out), where ``offsets`` says whose row is which.

        Args:
            input: for experts, rows sorted by expert.
            offsets: (experts,) int32, where the rows of each expert end.
        """
        if self.experts is None:
            return (
                super().forward(input) if self.reduce is None else self._plus_bias(self.reduce(input @ self.weight.mT))
            )
        if offsets is None:
            raise ValueError(f"offsets is required: this projection has {self.experts} experts")
        weight, device = self.weight, input.device.type
        # autocast knows torch's own products only
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            input, weight = input.to(dtype), weight.to(dtype)
        y = grouped_linear(input, weight, offsets)
        return self._plus_bias(y if self.reduce is None else self.reduce(y), offsets)

    def _plus_bias(self, y: Tensor, offsets: Tensor | None = None) -> Tensor:
        if self.bias is None:
            return y
        bias = self.bias if offsets is None else F.embedding(group_of_rows(len(y), offsets), self.bias)
        return y + bias.to(y.dtype)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.experts is None else f", experts={self.experts}")
