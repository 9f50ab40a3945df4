"""Grouped matrix products: rows sorted into groups, one matrix per group."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import flop_counter

from blocks.base.operators import LIBRARY

ALIGNED = 16  # bytes: torch's grouped kernel needs rows aligned to it
DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})
CAPABILITY = (8, 0)  # lowest compute capability of GPUs with torch's grouped kernel


def grouped_linear(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """Row n of group e times the transpose of ``weight[e]``.

    A custom operator, because torch.compile cannot trace torch's grouped product in float32, nor group sizes that
    depend on the data. Under autocast the factors are cast here, as it applies to torch's own operators only.

    Args:
        x: (N, in), sorted by group.
        weight: (E, out, in).
        offsets: (E,) int32, end of each group's rows, the last is N; groups may be empty. (E + 1,): the rows of the
            last group have no matrix.

    Returns:
        (N, out), 0 in rows without a matrix.
    """
    device = x.device.type
    if not x.is_meta and torch.is_autocast_enabled(device):  # there is no autocast of the meta device
        dtype = torch.get_autocast_dtype(device)
        x, weight = x.to(dtype), weight.to(dtype)
    return _product(x, weight, offsets)


def group_of_rows(rows: int, offsets: Tensor) -> Tensor:
    """(N,) long: the group of each row."""
    return torch.searchsorted(offsets, torch.arange(rows, dtype=offsets.dtype, device=offsets.device), right=True)


def fits_kernel(rows: Tensor, *others: Tensor) -> bool:
    """Whether torch's grouped kernel supports these contiguous factors."""
    if rows.dtype not in DTYPES or rows.device.type not in ("cpu", "cuda"):
        return False
    if rows.is_cuda and torch.cuda.get_device_capability(rows.device) < CAPABILITY:
        return False
    widths = (size for tensor in (rows, *others) for size in tensor.shape[1:])
    return rows.numel() > 0 and all(size * rows.itemsize % ALIGNED == 0 for size in widths)


def kernel_product(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """:func:`grouped_linear` by torch's grouped kernel."""
    y = F.grouped_mm(x, weight.mT, offs=offsets[: len(weight)])
    if len(offsets) == len(weight):
        return y
    index = torch.arange(len(y), device=y.device, dtype=offsets.dtype)  # the kernel leaves other rows undefined
    return y.masked_fill((index >= offsets[-2])[:, None], 0)


def kernel_outer(g: Tensor, x: Tensor, offsets: Tensor) -> Tensor:
    """For each group, the transpose of its rows of ``g`` times those of ``x``, (E, out, in), by the grouped kernel."""
    return F.grouped_mm(g.mT, x, offs=offsets)


def looped_product(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """:func:`grouped_linear` by one product a group."""
    y, start = x.new_empty(x.shape[0], weight.shape[1]), 0
    for group, end in enumerate(_numbers(offsets[: len(weight)])):
        if end > start:
            torch.mm(x[start:end], weight[group].mT, out=y[start:end])
        start = end
    y[start:] = 0
    return y


def looped_outer(g: Tensor, x: Tensor, offsets: Tensor) -> Tensor:
    """:func:`kernel_outer` by one product a group."""
    y, start = x.new_zeros(offsets.shape[0], g.shape[1], x.shape[1]), 0
    for group, end in enumerate(_numbers(offsets)):
        if end > start:
            torch.mm(g[start:end].mT, x[start:end], out=y[group])
        start = end
    return y


def _numbers(offsets: Tensor) -> list[int]:
    return cast("Any", offsets).tolist()


def _compute_product(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    compute = kernel_product if fits_kernel(x, weight) else looped_product
    return compute(x.contiguous(), weight, offsets)


def _compute_outer(g: Tensor, x: Tensor, offsets: Tensor) -> Tensor:
    compute = kernel_outer if fits_kernel(g, x) else looped_outer
    return compute(g.contiguous(), x.contiguous(), offsets)


def _empty_product(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


def _empty_outer(g: Tensor, x: Tensor, offsets: Tensor) -> Tensor:
    return x.new_empty(offsets.shape[0], g.shape[1], x.shape[1])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, weight, offsets = ctx.saved_tensors
    by_x, by_weight, _ = ctx.needs_input_grad
    with_weight = offsets[: len(weight)]
    return _product(g, weight.mT, offsets) if by_x else None, _outer(g, x, with_weight) if by_weight else None, None


def _product_flops(x: Any, weight: Any, *_: Any, **__: Any) -> int:
    return 2 * x[0] * weight[1] * weight[2]


def _outer_flops(g: Any, x: Any, *_: Any, **__: Any) -> int:
    return 2 * g[0] * g[1] * x[1]


_product: Any = torch.library.custom_op(f"{LIBRARY}::grouped_linear", _compute_product, mutates_args=())
_product.register_fake(_empty_product)
_product.register_autograd(_backward, setup_context=_keep)
_outer: Any = torch.library.custom_op(f"{LIBRARY}::grouped_outer", _compute_outer, mutates_args=())
_outer.register_fake(_empty_outer)
_counter, _operators = cast("Any", flop_counter), getattr(torch.ops, LIBRARY)  # whose formulas are untyped
_counter.register_flop_formula(_operators.grouped_linear)(_product_flops)
_counter.register_flop_formula(_operators.grouped_outer)(_outer_flops)
