"""Low-rank adapters against the formula of the paper, and the projections that have them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.adapters.lora import LoRA
from blocks.base import Linear, Site

SITE = Site(dim=12)
EXPERTS = Site(dim=12, experts=3)


def projection(site: Site = SITE, dtype: torch.dtype = torch.float64, **options: object) -> Linear:
    """A projection from 12 to 8 with an adapter whose B is not 0."""
    torch.manual_seed(0)
    made = Linear(site, 12, 8)
    adapter = LoRA(12, 8, site.experts, **options)  # type: ignore[arg-type]
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    made.adapter = adapter
    return made.to(dtype)


def formula(one: Linear, x: Tensor, factor: float) -> Tensor:
    """h = W x + factor B A x + bias (Hu et al. 2021, equation 3)."""
    assert isinstance(one.adapter, LoRA)
    return F.linear(x, one.weight + factor * one.adapter.b @ one.adapter.a, one.bias)


@pytest.mark.parametrize(
    ("options", "factor"),
    [({"rank": 4}, 4.0), ({"rank": 2, "alpha": 3.0}, 1.5), ({"rank": 4, "alpha": 3.0, "scaling": "sqrt_rank"}, 1.5)],
)
def test_the_factor_is_alpha_over_the_rank_or_its_root(options: dict[str, object], factor: float) -> None:
    one, x = projection(**options), torch.randn(2, 5, 12, dtype=torch.float64)
    torch.testing.assert_close(one(x), formula(one, x, factor))


def test_gradients_are_those_of_the_formula() -> None:
    one, x = projection(rank=3), torch.randn(5, 12, dtype=torch.float64)
    names = ("weight", "bias", "adapter.a", "adapter.b")
    parameters = [one.get_parameter(name) for name in names]
    ours = torch.autograd.grad(one(x).square().sum(), parameters)
    theirs = torch.autograd.grad(formula(one, x, 16 / 3).square().sum(), parameters)
    torch.testing.assert_close(ours, theirs)


def test_dropout_acts_on_the_adapter_only() -> None:
    one, x = projection(rank=3, dropout=0.5).train(), torch.randn(4096, 12, dtype=torch.float64)
    plain = F.linear(x, one.weight, one.bias)
    change, expected = one(x) - plain, one.eval()(x) - plain
    assert not torch.allclose(change, expected)
    slope = (change * expected).sum() / expected.square().sum()  # 1 in the mean, as what is kept is scaled
    assert slope.item() == pytest.approx(1.0, abs=0.1)


def test_each_expert_has_its_own_adapter() -> None:
    one, x = projection(EXPERTS, rank=2), torch.randn(7, 12, dtype=torch.float64)
    assert isinstance(one.adapter, LoRA)
    ends = torch.tensor([3, 3, 7], dtype=torch.int32)
    weights = one.weight + 8 * one.adapter.b @ one.adapter.a
    rows = [F.linear(x[:3], weights[0], one.bias[0]), F.linear(x[3:], weights[2], one.bias[2])]
    torch.testing.assert_close(one(x, ends), torch.cat(rows))
    expected = one(x, ends)
    one.merge()
    assert one.adapter is None
    torch.testing.assert_close(one(x, ends), expected)


def test_a_merged_weight_in_bfloat16_is_rounded_once() -> None:
    one = projection(dtype=torch.bfloat16, rank=4)
    assert isinstance(one.adapter, LoRA)
    exact = one.weight.double() + 4 * one.adapter.b.double() @ one.adapter.a.double()
    before, names = one.weight, {"weight", "bias"}
    one.merge()
    assert one.weight is before  # such as one in an optimizer
    assert set(one.state_dict()) == names
    assert (one.weight != exact.to(torch.bfloat16)).float().mean().item() <= 0.05  # float32 in between is not exact
