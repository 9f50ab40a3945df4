"""The conformance suite over the package, and a second computation of what each block computes."""

import torch
from fading import FadingSum, PeakNorm

from blockformer.conformance import BlockCase, Check, parametrize_checks, registered
from blocks.base import Context, Site


@parametrize_checks(registered("fading"))
def test_conforms(case: BlockCase, check: Check) -> None:
    check(case)


def test_the_past_fades() -> None:
    mixer, x = FadingSum(Site(dim=8), heads=2), torch.randn(1, 4, 8)
    values, rates = mixer.value(x).view(1, 4, 2, 4), mixer.rate.sigmoid()
    sums = [sum(rates[:, None] ** (t - s) * values[:, s] for s in range(t + 1)) for t in range(4)]
    expected = mixer.out(torch.stack(sums, dim=1).flatten(2))
    torch.testing.assert_close(mixer(x, Context.of(x)), expected)


def test_the_largest_channel_becomes_one() -> None:
    norm = PeakNorm(Site(dim=3))
    torch.testing.assert_close(norm(torch.tensor([1.0, -4.0, 2.0])), torch.tensor([0.25, -1.0, 0.5]))
