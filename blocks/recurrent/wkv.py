"""The mixers of RWKV-4: WKV and the channel mix."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from blocks.activations.pointwise import ReLUSquared, Sigmoid
from blocks.base import Activation, Axis, Context, Linear, Mixer, Site, SitelessFactory
from blocks.recurrent.base import RecurrentState, Rows, at_least_float32, rows_of, without_autocast
from blocks.recurrent.convolution import short_convolution
from blocks.recurrent.maximum import StabilisedState, first_tokens, last_token, running_maximum
from blocks.recurrent.scan import linear_scan
from registry import Capabilities, Positive, register

NOTHING = -1e38
MOST_CHANNELS = 2**16


class TokenShift(Mixer):
    """Parts of mixers whose projections read a mixture of each token and the one before it."""

    def arranged(self, x: Tensor, rows: Rows, width: int) -> Tensor:
        """(B, T, D) in the order of ``rows``."""
        checked = cast("Tensor", x.unflatten(-1, (width,)))  # plain broadcasting would repeat vectors of one channel
        return rows.arrange(checked)

    def shifted(self, x: Tensor, rows: Rows, state: RecurrentState | None) -> Tensor:
        """(B, T, D) -> the vector before each, 0 at the start of a document."""
        weight = x.new_tensor([1.0, 0.0]).expand(x.shape[2], 2)
        return short_convolution(x, weight, rows, state)

    def prepare(self, context: Context) -> None:
        super().prepare(context)
        rows_of(context)


@register("wkv")
class WKV(TokenShift):
    """Attention without queries: a mean of values, weighted by exp(key), that fades with the distance.

    y_t = (sum_(i<t) exp(k_i - (t - 1 - i) w) v_i + exp(u + k_t) v_t) / (the same without v) in each channel, with
    w = exp(log_decay) and u = bonus; the result is out(sigmoid(gate(x)) * y). k, v and gate read
    mu x_t + (1 - mu) x_(t-1) with a mu of their own. The state has a fixed size.

    Args:
        channels: width of keys and values; null: dim.
    """

    paper = "Peng et al., 2023, arXiv:2305.13048"
    formula = (
        "y_t = (sum_(i<t) exp(k_i - (t - 1 - i) w) v_i + exp(u + k_t) v_t)"
        " / (sum_(i<t) exp(k_i - (t - 1 - i) w) + exp(u + k_t))"
    )
    outputs = ("out",)
    capabilities = Capabilities(places=frozenset({"causal"}), prefix=False, ordered=True)

    def __init__(self, site: Site, *, channels: Positive | None = None) -> None:
        super().__init__(site)
        self.channels = channels or site.dim
        if max(self.channels, site.dim) > MOST_CHANNELS:  # each has constants of its own
            raise ValueError(f"channels={self.channels} is above {MOST_CHANNELS}, the most that are supported")
        self.k, self.v, self.gate = (Linear(site, site.dim, self.channels, bias=False) for _ in range(3))
        self.k_mix, self.v_mix, self.gate_mix = (nn.Parameter(torch.zeros(site.dim)) for _ in range(3))
        self.log_decay = nn.Parameter(torch.zeros(self.channels))
        self.bonus = nn.Parameter(torch.zeros(self.channels))
        self.out = Linear(site, self.channels, site.dim, bias=False)

    def constants(self) -> Mapping[str, float | Sequence[float]]:
        """Channels differ in how fast they fade, and in how much of the token before they read."""
        last, width = max(1, self.channels - 1), len(self.k_mix)
        read = [(channel + 1) / (width + 1) for channel in range(width)]
        fading = [8.0 * (channel / last) ** 0.7 - 5.0 for channel in range(self.channels)]
        return {"k_mix": read, "v_mix": read, "gate_mix": read, "log_decay": fading, "bonus": -1.2}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        vectors = ("k_mix", "v_mix", "gate_mix", "log_decay", "bonus")
        return {
            **{f"{name}.weight": (None, None) for name in ("k", "v", "gate", "out")},
            **dict.fromkeys(vectors, (None,)),
        }

    def forward(self, x: Tensor, context: Context) -> Tensor:
        rows, state = rows_of(context), context.state("mixer", StabilisedState)
        x = self.arranged(x, rows, len(self.k_mix))
        change = self.shifted(x, rows, state) - x
        k, v, gate = (
            linear(x + (1 - mix) * change)
            for linear, mix in ((self.k, self.k_mix), (self.v, self.v_mix), (self.gate, self.gate_mix))
        )
        with without_autocast(x):
            y = self._read(at_least_float32(k), at_least_float32(v), rows, state)
        return rows.restore(self.out(gate.sigmoid() * y.to(x.dtype)))

    def _read(self, k: Tensor, v: Tensor, rows: Rows, state: StabilisedState | None) -> Tensor:
        """(B, T, D) keys and values -> y. Sums are stored times exp(-m), with m a running maximum of their terms."""
        drop, bonus = (at_least_float32(x) for x in (self.log_decay, self.bonus))
        drop, batch = drop.exp(), k.shape[0]
        known = None if state is None else state.memory
        sums = k.new_zeros(batch, 2 * self.channels) if known is None else known
        maximum = None if state is None else state.maximum
        maximum = k.new_full((batch, self.channels), NOTHING) if maximum is None else maximum
        m, m_before = running_maximum(k, drop, rows, maximum, NOTHING)
        decay, write = (m_before - drop - m).exp(), (k - m).exp()
        pair = torch.cat([write * v, write], dim=-1)  # numerators and divisors
        h = linear_scan(torch.cat([decay, decay], dim=-1), pair, sums)
        earlier = torch.cat([sums[:, None], h[:, :-1]], dim=1)[:, : k.shape[1]]
        if rows.documents is not None:
            inside = first_tokens(rows, k)
            inside[:, :1] = False
            earlier = earlier.masked_fill(inside, 0.0)
        if state is not None:
            state.memory = last_token(h, rows, sums)
            state.maximum = last_token(m, rows, maximum)
        above, below = earlier.chunk(2, dim=-1)
        most = torch.maximum(m_before, (k + bonus).detach())
        old, new = (m_before - most).exp(), (k + bonus - most).exp()
        return (old * above + new * v) / (old * below + new)

    @property
    def cached_per_sequence(self) -> int:
        return 3 * self.channels + self.k.in_features


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
