"""Grouped matrix products: by torch's kernel and by a loop over groups."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from blocks.base import Linear, Site, grouped
from blocks.base.grouped import (
    fits_kernel,
    group_of_rows,
    grouped_linear,
    kernel_outer,
    kernel_product,
    looped_outer,
    looped_product,
)
from blocks.base.operators import LIBRARY

ENDS = [[5, 5, 12, 20], [0, 0, 0, 20], [20, 20, 20, 20], [0, 7, 20, 20]]


def factors(wide: int, out: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(20, wide, generator=generator), torch.randn(4, out, wide, generator=generator)
    return x.to(dtype), weight.to(dtype)


def row_by_row(x: Tensor, weight: Tensor, ends: list[int]) -> Tensor:
    groups = [next(g for g, end in enumerate(ends) if row < end) for row in range(len(x))]
    return torch.stack([weight[group] @ row for group, row in zip(groups, x, strict=True)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_kernel_and_loop_agree(ends: list[int], dtype: torch.dtype) -> None:
    x, weight = factors(32, 48, dtype)
    g, offsets = torch.ones(20, 48, dtype=dtype).cumsum(0), torch.tensor(ends, dtype=torch.int32)
    assert fits_kernel(x, weight)
    torch.testing.assert_close(kernel_product(x, weight, offsets), looped_product(x, weight, offsets))
    torch.testing.assert_close(kernel_product(g, weight.mT, offsets), looped_product(g, weight.mT, offsets))
    torch.testing.assert_close(kernel_outer(g, x, offsets), looped_outer(g, x, offsets))


@pytest.mark.parametrize("width", [32, 33], ids=["for the kernel", "for the loop"])
@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_each_row_is_multiplied_by_the_matrix_of_its_group(ends: list[int], width: int) -> None:
    x, weight = factors(width, 2 * width)
    assert fits_kernel(x, weight) == (width == 32)
    offsets = torch.tensor(ends, dtype=torch.int32)
    torch.testing.assert_close(grouped_linear(x, weight, offsets), row_by_row(x, weight, ends))


@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_gradients_are_right(ends: list[int]) -> None:
    x, weight = (tensor.double().requires_grad_() for tensor in factors(6, 5))
    offsets = torch.tensor(ends, dtype=torch.int32)
    torch.autograd.gradcheck(lambda x, weight: grouped_linear(x, weight, offsets), (x, weight), fast_mode=True)


@pytest.mark.parametrize("width", [32, 33])
def test_takes_gradients_and_rows_that_are_not_contiguous(width: int) -> None:
    x, weight = factors(width, width)
    weight.requires_grad_()
    offsets = torch.tensor(ENDS[0], dtype=torch.int32)
    grouped_linear(x, weight, offsets).sum().backward()  # the gradient of a sum is one number with strides of 0
    rows = torch.tensor(ENDS[0]).diff(prepend=torch.tensor([0]))
    expected = torch.stack([part.sum(0).expand(width, width) for part in x.split(rows.tolist())])
    torch.testing.assert_close(weight.grad, expected)
    turned = x.mT.contiguous().mT
    torch.testing.assert_close(grouped_linear(turned, weight, offsets), grouped_linear(x, weight, offsets))


def test_without_rows_there_are_none() -> None:
    weight = torch.randn(4, 8, 8, requires_grad=True)
    y = grouped_linear(torch.empty(0, 8), weight, torch.zeros(4, dtype=torch.int32))
    y.sum().backward()
    assert y.shape == (0, 8)
    assert torch.equal(weight.grad, torch.zeros(4, 8, 8))


def test_holds_to_what_torch_asks_of_an_operation() -> None:
    x, weight = (tensor.requires_grad_() for tensor in factors(32, 48))
    arguments = (x, weight, torch.tensor(ENDS[0], dtype=torch.int32))
    torch.library.opcheck(getattr(torch.ops, LIBRARY).grouped_linear.default, arguments)


def test_knows_the_group_of_each_row() -> None:
    assert group_of_rows(6, torch.tensor([2, 2, 3, 6], dtype=torch.int32)).tolist() == [0, 0, 2, 3, 3, 3]


@pytest.mark.parametrize("bias", [True, False])
def test_a_projection_of_experts_is_many_projections(bias: bool) -> None:
    site, offsets = Site(dim=8, experts=4), torch.tensor(ENDS[0], dtype=torch.int32)
    together, alone = Linear(site, 8, 12, bias=bias), Linear(Site(dim=8), 8, 12, bias=bias)
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    y = together(x, offsets)
    for expert, (start, stop) in enumerate(zip([0, *ENDS[0]], ENDS[0], strict=False)):
        alone.load_state_dict({name: value[expert] for name, value in together.state_dict().items()})
        torch.testing.assert_close(y[start:stop], alone(x[start:stop]))
    with pytest.raises(ValueError, match="4 experts"):
        together(x)


def test_autocast_reaches_it() -> None:
    together, offsets = Linear(Site(dim=8, experts=4), 8, 8), torch.tensor(ENDS[0], dtype=torch.int32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert together(torch.randn(20, 8), offsets).dtype == torch.bfloat16


def test_no_operator_has_a_name_that_an_exported_copy_would_take_over() -> None:
    files = Path(grouped.__file__).parents[1].rglob("*.py")
    names = [name for file in files for name in re.findall(r"custom_op\(\s*(f?\"[^\"]*\")", file.read_text("utf-8"))]
    assert len(names) >= 7
    assert [name for name in names if not name.startswith('f"{LIBRARY}::')] == []
