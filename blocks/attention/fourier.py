"""Mixing by a Fourier transform."""

from typing import cast

import torch
from torch import Tensor

from blocks.base import Context, Mixer, Site
from registry import Capabilities, register


@register("fourier")
class FourierMixing(Mixer):
    """Re(F_time(F_width(x))): a Fourier transform along the channels, one along the text, and of both the real part.

    Nothing is learned, and every token gets something of all others, padding included: texts must have one length.

    Args:
        orthonormal: divide by the root of the number of values, which keeps their magnitude; the paper does not.
    """

    paper = "Lee-Thorp et al., 2021, arXiv:2105.03824"
    capabilities = Capabilities(places=frozenset({"bidirectional"}), padding=False, documents=False, ordered=True)

    def __init__(self, site: Site, *, orthonormal: bool = True) -> None:
        super().__init__(site)
        self.norm = "ortho" if orthonormal else "backward"

    def forward(self, x: Tensor, context: Context) -> Tensor:
        if not x.numel():
            return x
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # in 16 bits there are no transforms on a CPU
        mixed = cast("Tensor", torch.fft.fft2(wide, dim=(1, 2), norm=self.norm))  # pyright: ignore[reportUnknownMemberType]
        return mixed.real.to(x.dtype)
