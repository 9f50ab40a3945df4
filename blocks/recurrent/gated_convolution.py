"""Gated short convolutions."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from blocks.base import Axis, Context, Fixed, Linear, Mixer, Site
from blocks.recurrent.base import RecurrentState, rows_of
from blocks.recurrent.convolution import short_convolution
from blocks.recurrent.state_steps import CHANNELS
from registry import Capabilities, Positive, register


@register("gated_convolution")
class GatedConvolution(Mixer):
    """out(output_gate(x) * convolution(input_gate(x) * value(x))), with a short causal convolution of each channel.

    The gates are linear, so the output is a polynomial of the input. The state has a fixed size: the last inputs of the
    convolution.

    Args:
        kernel: width of the convolution, in tokens, including the token itself; at least 2.
        bias: use biases in all projections and in the convolution.
    """

    paper = "Liquid AI, 2025, arXiv:2511.23404; gates around a convolution: Fu et al., 2022, arXiv:2212.14052"
    formula = "y = out(output_gate(x) ⊙ convolution(input_gate(x) ⊙ value(x)))"
    outputs = ("out",)
    intermediates = CHANNELS
    capabilities = Capabilities(
        places=frozenset({"causal"}),
        prefix=False,
        ordered=True,
        shards={
            "input_gate": "columns",
            "output_gate": "columns",
            "value": "columns",
            "convolution": "columns",
            "convolution_bias": "columns",
            "out": "rows",
        },
    )

    def __init__(self, site: Site, *, kernel: Positive = 3, bias: bool = False) -> None:
        super().__init__(site)
        if kernel == 1:
            raise ValueError("kernel=1 mixes no tokens; set kernel to 2 or more")
        self.window = kernel
        self.input_gate = Linear(site, site.dim, site.dim, bias=bias)
        self.output_gate = Linear(site, site.dim, site.dim, bias=bias)
        self.value = Linear(site, site.dim, site.dim, bias=bias)
        self.convolution = nn.Parameter(torch.zeros(site.dim, kernel))
        self.convolution_bias = nn.Parameter(torch.zeros(site.dim)) if bias else None
        self.out = Linear(site, site.dim, site.dim, bias=bias)

    def constants(self) -> Mapping[str, float | Sequence[float]]:
        """The convolution starts as the identity."""
        taps = [0.0] * (self.convolution.shape[1] - 1) + [1.0]
        return {"convolution": taps} | ({} if self.convolution_bias is None else {"convolution_bias": 0.0})

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        weights = {f"{name}.weight": (None, None) for name in ("input_gate", "output_gate", "value", "out")}
        return {**weights, "convolution": (None, Fixed(self.convolution.shape[1])), "convolution_bias": (None,)}

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        rows_of(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        rows, state = rows_of(context), context.state("mixer", RecurrentState)
        inputs = rows.arrange(self.input_gate(x) * self.value(x))
        y = rows.restore(short_convolution(inputs, self.convolution, rows, state))
        y = y if self.convolution_bias is None else y + self.convolution_bias
        self.record(written=inputs, convolved=y)
        return self.out((self.output_gate(x) * y).to(x.dtype))

    @property
    def cached_per_sequence(self) -> int:
        channels, kernel = self.convolution.shape
        return channels * (kernel - 1)
