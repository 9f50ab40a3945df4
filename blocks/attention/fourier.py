"""Mixing by Fourier transforms."""

from typing import cast

import torch
from torch import Tensor

from blocks.base import Context, Mixer, Site
from registry import Capabilities, register


@register("fourier")
class FourierMixing(Mixer):
    """Re(F_time(F_width(x))): the real part of Fourier transforms along channels and tokens.

    It has no parameters. Each output depends on all tokens including padding, so that padding is not supported.

    Args:
        orthonormal: divide by the square root of T * D, which keeps the magnitude; false: as in the paper.
    """

    paper = "Lee-Thorp et al., 2021, arXiv:2105.03824"
    formula = "y = Re(F_time(F_width(x)))"
    capabilities = Capabilities(places=frozenset({"bidirectional"}), padding=False, documents=False, ordered=True)

    def __init__(self, site: Site, *, orthonormal: bool = True) -> None:
        super().__init__(site)
        self.norm = "ortho" if orthonormal else "backward"
        self.factor = 1.0 if orthonormal else site.width_multiplier**-0.5  # the sum over D is as large at all widths

    @property
    def zero_at_zero(self) -> bool:
        return False

    def forward(self, x: Tensor, context: Context) -> Tensor:
        if not x.numel():
            return x
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # the CPU has no 16-bit transforms
        mixed = cast("Tensor", torch.fft.fft2(wide, dim=(1, 2), norm=self.norm))  # pyright: ignore[reportUnknownMemberType]
        return (mixed.real if self.factor == 1 else mixed.real * self.factor).to(x.dtype)
