"""The channel mix of RWKV-4."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from blocks.activations.pointwise import ReLUSquared, Sigmoid
from blocks.base import Activation, Axis, Context, Linear, Site, SitelessFactory
from blocks.recurrent.base import RecurrentState, rows_of
from blocks.recurrent.token_shift import MOST_CHANNELS, TokenShift
from registry import Capabilities, Positive, register


@register("channel_mix")
class ChannelMix(TokenShift):
    """gate_activation(gate(x)) * down(activation(up(x))): a feed-forward that also reads the token before.

    up and gate read mu x_t + (1 - mu) x_(t-1) with a mu of their own.

    Args:
        hidden: width between up and down; null: 4 * dim.
        activation: non-linearity between up and down.
        gate: activation of the gate.
    """

    paper = "Peng et al., 2023, arXiv:2305.13048"
    formula = "y = gate_activation(gate(x)) ⊙ down(activation(up(x)))"
    outputs = ("down",)
    capabilities = Capabilities(places=frozenset({"causal"}), prefix=False, ordered=True)

    expected_failures: ClassVar[Mapping[str, str]] = {
        "mixer/channel_mix/causal[hidden=1]: attends_exactly_its_window": "the one hidden unit is 0 for some tokens",
    }

    def __init__(
        self,
        site: Site,
        *,
        hidden: Positive | None = None,
        activation: SitelessFactory[Activation] = ReLUSquared,
        gate: SitelessFactory[Activation] = Sigmoid,
    ) -> None:
        super().__init__(site)
        hidden = hidden or 4 * site.dim
        self.window = 2
        if site.dim > MOST_CHANNELS:
            raise ValueError(f"dim={site.dim} is above {MOST_CHANNELS}, the most that are supported")
        self.up = Linear(site, site.dim, hidden, bias=False)
        self.gate = Linear(site, site.dim, site.dim, bias=False)
        self.down = Linear(site, hidden, site.dim, bias=False)
        self.up_mix, self.gate_mix = (nn.Parameter(torch.zeros(site.dim)) for _ in range(2))
        self.activation, self.gate_activation = activation(), gate()

    def constants(self) -> Mapping[str, float | Sequence[float]]:
        width = len(self.up_mix)
        read = [(channel + 1) / (width + 1) for channel in range(width)]
        return {"up_mix": read, "gate_mix": read}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        weights = {f"{name}.weight": (None, None) for name in ("up", "gate", "down")}
        return {**weights, "up_mix": (None,), "gate_mix": (None,)}

    def forward(self, x: Tensor, context: Context) -> Tensor:
        rows, state = rows_of(context), context.state("mixer", RecurrentState)
        x = self.arranged(x, rows, len(self.up_mix))
        change = self.shifted(x, rows, state) - x
        y = self.down(self.activation(self.up(x + (1 - self.up_mix) * change)))
        return rows.restore(self.gate_activation(self.gate(x + (1 - self.gate_mix) * change)) * y)

    @property
    def cached_per_sequence(self) -> int:
        return self.up.in_features
