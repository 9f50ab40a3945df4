"""Linear projections, also of several experts at once."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.base.adapter import Adapter
from blocks.base.grouped import group_of_rows, grouped_linear
from blocks.base.site import Site


class Linear(nn.Linear):
    """x W^T + b; at a site with experts, one W and b per expert, computed at once.

    Args:
        site: site of the block that owns the projection.
        in_features: width of the input.
        out_features: width of the output.
        bias: add a learned bias.
        groups: number of groups of inputs, each of which makes an equal share of the outputs (a block-diagonal matrix).

    Attributes:
        weight: (out, in / groups), or (experts, out, in).
        bias: (out,), or (experts, out).
        adapter: a trained change that is added to x W^T; None: none.
        reduce: sums the results of all processes under tensor parallelism by rows; None: not cut.
    """

    def __init__(self, site: Site, in_features: int, out_features: int, *, bias: bool = True, groups: int = 1) -> None:
        super().__init__(in_features, out_features, bias=bias)  # pyright: ignore[reportUnknownMemberType]
        self.experts, self.groups = site.experts, groups
        if groups > 1:
            self._group()
        self.adapter: Adapter | None = None
        self.reduce: Callable[[Tensor], Tensor] | None = None
        if site.experts is not None:
            self.weight = nn.Parameter(self.weight.new_empty(site.experts, out_features, in_features))
            self.bias = nn.Parameter(self.weight.new_empty(site.experts, out_features)) if bias else None
            self.reset_parameters()

    def _group(self) -> None:
        if self.experts is not None or self.in_features % self.groups or self.out_features % self.groups:
            raise ValueError(
                f"{self.groups} groups must divide the {self.in_features} inputs and {self.out_features} outputs of a "
                "projection, which is none of several experts; choose another number"
            )
        self.weight = nn.Parameter(self.weight.new_empty(self.out_features, self.in_features // self.groups))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = self.weight.shape[-1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor, offsets: Tensor | None = None) -> Tensor:
        """(..., in) -> (..., out); for experts (N, in) -> (N, out).

        Args:
            input: for experts, rows sorted by expert.
            offsets: (experts,) int32, end of each expert's rows; required with experts. (experts + 1,): the rows of the
                last group belong to no expert and become 0.
        """
        if self.experts is None and self.reduce is None and self.groups == 1:
            y = super().forward(input)
            return y if self.adapter is None else y + self.adapter(input)
        y = self.product(input, offsets)
        return self._plus_bias(y if self.reduce is None else self.reduce(y), offsets)

    def product(self, input: Tensor, offsets: Tensor | None = None) -> Tensor:
        """:meth:`forward` without the bias, and without the sum over processes."""
        if self.groups > 1:
            y = self._grouped_product(input)
        elif self.experts is None:
            y = F.linear(input, self.weight)
        elif offsets is None:
            raise ValueError(f"offsets is required: this projection has {self.experts} experts")
        else:
            y = grouped_linear(input, self.weight, offsets)
        return y if self.adapter is None else y + self.adapter(input, offsets)

    def _grouped_product(self, input: Tensor) -> Tensor:
        x = input.reshape(-1, self.groups, self.in_features // self.groups).transpose(0, 1)  # (groups, N, in / groups)
        weight = self.weight.view(self.groups, -1, x.shape[-1]).transpose(1, 2)
        return torch.bmm(x, weight).transpose(0, 1).reshape(*input.shape[:-1], self.out_features)

    def merged_weight(self) -> Tensor:
        """The weight with the adapter's change folded in, rounded once to the weight's dtype."""
        if self.adapter is None:
            return self.weight
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        return (self.weight.to(wide) + self.adapter.delta().to(wide)).to(self.weight.dtype)

    @torch.no_grad()
    def merge(self) -> None:
        """Fold the adapter's change into the weight and remove the adapter."""
        self.weight.copy_(self.merged_weight())
        del self.adapter
        self.adapter = None

    def _plus_bias(self, y: Tensor, offsets: Tensor | None = None) -> Tensor:
        if self.bias is None:
            return y
        bias = self.bias
        if offsets is not None:
            bias = F.pad(bias, (0, 0, 0, len(offsets) - len(bias)))
            bias = F.embedding(group_of_rows(len(y), offsets), bias)
        return y + bias.to(y.dtype)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.experts is None else f", experts={self.experts}")
