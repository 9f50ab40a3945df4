"""The time mix of RWKV-4."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from blocks.base import Axis, Context, Linear, Site
from blocks.base.precision import at_least_float32, without_autocast
from blocks.recurrent.base import Rows, rows_of
from blocks.recurrent.maximum import StabilisedState, first_tokens, last_token, running_maximum
from blocks.recurrent.scan import linear_scan
from blocks.recurrent.token_shift import MOST_CHANNELS, TokenShift
from registry import Capabilities, Positive, register

NOTHING = -1e38
"""The maximum before the first token."""


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
        m, m_before = running_maximum(k.detach(), drop.detach(), rows, maximum, NOTHING)
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
