"""Queries, keys and values of an attention of tokens to tokens."""

from abc import ABC
from collections.abc import Hashable

from torch import Tensor

from blocks.attention.key_reuse import keep, reused
from blocks.attention.projection import HeadProjection, NormOver, normalise
from blocks.base import AttentionPositions, Context, KeyValues, Linear, Mixer, Norm


class QueriesKeysValues(Mixer, ABC):
    """Projects an input to queries, keys and values, which have their norms, clipping and positions.

    Attributes:
        q: to the queries.
        k: to the keys; None: keys and values are those of an earlier layer.
        v: to the values; None: they are the keys before their norm and positions.
        qk_down: to a narrower vector, from which queries and keys are projected; None: from the input.
        qk_rank_norm: norm of that vector; None: no norm.
        q_norm, k_norm, v_norm: norms; None: no norm.
        over: what the norms of queries and keys cover.
        norm_after: whether these are applied after positions.
        positions: of queries and keys.
        kv_heads: number of key and value heads.
        head_dim: width of queries and keys.
        value_dim: width of values.
        clip: bound of all three before positions; None: no bound.
        value_scale: factor on the values; None: no factor.
        temperature: a in the factor 1 + a ln(1 + floor((p + 1) / temperature_step)) on queries; 0: no factor.
        temperature_step: number of tokens over which this factor stays the same.
        layer: index of its layer.
    """

    q: HeadProjection
    k: HeadProjection | None
    v: HeadProjection | None
    qk_down: Linear | None
    qk_rank_norm: Norm | None
    q_norm: Norm | None
    k_norm: Norm | None
    v_norm: Norm | None
    over: NormOver
    norm_after: bool
    positions: AttentionPositions
    kv_heads: int
    head_dim: int
    value_dim: int
    clip: float | None
    value_scale: float | None
    temperature: float
    temperature_step: int
    layer: int

    @property
    def reuse_kv(self) -> bool:
        """Whether keys and values are those of an earlier layer."""
        return self.k is None

    @property
    def form(self) -> Hashable:
        """What keys and values must have in common with those of a layer that attends to them, too."""
        widths = self.kv_heads, self.head_dim, self.value_dim
        return *widths, self.window, self.chunk, self.positions.rotation

    @property
    def placed_q(self) -> str:
        """The formula of the queries as the scores use them."""
        placed = "q_norm(positions(clip(Q)))" if self.norm_after else "positions(clip(q_norm(Q)))"
        steps = f"floor((t + 1) / {self.temperature_step})"
        return f"(1 + {self.temperature:g} ln(1 + {steps})) {placed}" if self.temperature else placed

    @property
    def placed_k(self) -> str:
        """The formula of the keys as the scores use them."""
        return "k_norm(positions(clip(K)))" if self.norm_after else "positions(clip(k_norm(K)))"

    def queries_keys_values(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, D) -> queries (B, H, T, K); keys (B, G, S, K) and values (B, G, S, V) of all tokens so far."""
        latent = x
        if self.qk_down is not None:
            latent = self.qk_down(x) if self.qk_rank_norm is None else self.qk_rank_norm(self.qk_down(x))
            self.record(latent=latent)
        q = self.q(latent)
        self.record(q=q)
        q = self._placed(q, self.q_norm, context)
        if self.temperature:
            q = q * self._sharpness(context).to(q.dtype)
        self.record(placed_q=q)
        return q, *self._keys_and_values(latent, x, context)

    def _keys_and_values(self, latent: Tensor, x: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        if self.k is None:
            k, v = reused(context, self.layer, self.form)
            self.record(placed_k=k, placed_v=v)
            return k, v
        k = self.k(latent)  # (B, G, T, K)
        v = k if self.v is None else self.v(x)  # (B, G, T, V)
        self.record(k=k, v=v)
        v = normalise(v, self.v_norm, "head")
        v = v if self.clip is None else v.clamp(-self.clip, self.clip)
        v = v if self.value_scale is None else v * self.value_scale
        k = self._placed(k, self.k_norm, context)
        self.record(placed_k=k, placed_v=v)
        state = context.state("mixer", lambda: KeyValues(context.cached_window(self.window)))
        if state is not None:
            k, v = state.append(k, v)
        if context.sources:  # else the index is not read, so that equal layers are compiled once
            keep(context, self.layer, self.form, k, v)
        return k, v

    def _placed(self, y: Tensor, norm: Norm | None, context: Context) -> Tensor:
        """Queries or keys after their norm, clipping and positions."""
        y = y if self.norm_after else normalise(y, norm, self.over)
        y = y if self.clip is None else y.clamp(-self.clip, self.clip)
        y = self.positions.rotate(y, context)
        return normalise(y, norm, self.over) if self.norm_after else y

    def _sharpness(self, context: Context) -> Tensor:
        """(B or 1, 1, T, 1), the factor of ``temperature``."""
        steps = (context.positions + 1) // self.temperature_step
        return (1 + self.temperature * steps.float().log1p())[:, None, :, None]
