"""Projections to heads, norms over heads, and the parameter axes of both."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from torch import Tensor

from blocks.base import Axis, Factory, Heads, KeyHeads, Linear, Norm, Site
from registry import Cut

NormOver = Literal["head", "heads", "projection"]
GateOver = Literal["channel", "head"]
NormedHeads = tuple[Norm | None, NormOver]
Axes = Mapping[str, tuple[Axis | None, ...]]

GROUPED_SHARDS: Mapping[str, Cut] = {
    "q": "columns",
    "k": "columns",
    "v": "columns",
    "gate": "columns",
    "gate_activation": "between",
    "sinks": "columns",
    "q_norm": "between",
    "k_norm": "between",
    "out_norm": "between",
    "out": "rows",
}
"""How tensor parallelism cuts an attention with grouped queries."""


class HeadProjection(Linear):
    """A linear projection whose output is split into ``heads`` heads."""

    def __init__(self, site: Site, width: int, heads: int, head_dim: int, *, bias: bool, groups: int = 1) -> None:
        super().__init__(site, width, heads * head_dim, bias=bias, groups=groups)
        self.heads, self.head_dim = heads, head_dim

    def forward(self, input: Tensor, offsets: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, H, T, K); under tensor parallelism H counts the heads of this process only."""
        y = super().forward(input, offsets)
        return y.view(*y.shape[:2], y.shape[2] // self.head_dim, self.head_dim).transpose(1, 2)


def grouped(groups: Mapping[str, int] | None, projections: tuple[str, ...]) -> Mapping[str, int]:
    """The number of groups of each block-diagonal projection.

    Raises:
        ValueError: one of the projections does not exist.
    """
    if unknown := [name for name in groups or {} if name not in projections]:
        raise ValueError(f"groups has {unknown[0]!r}, but the projections are {', '.join(projections)}")
    return {name: count for name, count in (groups or {}).items() if count > 1}


def groups_of(heads: int, kv_heads: int | None) -> int:
    """The number of key and value heads, by default one for each query head.

    Raises:
        ValueError: it does not divide the number of query heads.
    """
    kv_heads = kv_heads or heads
    if heads % kv_heads:
        raise ValueError(f"heads={heads} is not a multiple of kv_heads={kv_heads}; change one of them")
    return kv_heads


def check_shared_kv(biased: tuple[str, ...], value_dim: int, head_dim: int) -> None:
    """Refuse options that keys which serve as values, too, cannot have.

    Args:
        biased: projections that are named as having a bias.
        value_dim: width of the values of a head.
        head_dim: width of its keys.

    Raises:
        ValueError: the widths differ, or values have a bias of their own.
    """
    if value_dim != head_dim:
        raise ValueError(f"shared_kv needs keys and values of one width, but value_dim={value_dim} is not {head_dim}")
    if "v" in biased:
        raise ValueError("bias lists v, but with shared_kv there is no such projection; leave v out")


def check_reused_kv(named: tuple[str, ...]) -> None:
    """Refuse options of projections that attention to the keys and values of another layer does not have.

    Args:
        named: projections that are named by ``bias`` or ``groups``.

    Raises:
        ValueError: one of them is that of keys or values.
    """
    if found := [name for name in named if name in ("k", "v")]:
        raise ValueError(f"bias or groups name {found[0]}, but with reuse_kv there is no such projection; leave it out")


def head_norm(norm: Factory[Norm] | None, site: Site, heads: int, head_dim: int, over: NormOver) -> Norm | None:
    """Build the norm for :func:`normalise`.

    Args:
        norm: the norm's factory; None: no norm.
        site: the mixer's site.
        heads: number of heads.
        head_dim: width of each.
        over: head: each head, all with the same weights; heads: each head with its own weights; projection: all heads
            together.
    """
    if norm is None:
        return None
    if over == "projection":
        return norm(site.resized(heads * head_dim))
    return norm(site.resized(head_dim, heads if over == "heads" else None))


def normalise(x: Tensor, norm: Norm | None, over: NormOver) -> Tensor:
    """Apply a norm of :func:`head_norm`, (B, H, T, K) -> (B, H, T, K)."""
    if norm is None:
        return x
    y = x.transpose(1, 2)  # (B, T, H, K)
    return (norm(y.flatten(2)).view_as(y) if over == "projection" else norm(y)).transpose(1, 2)


def score_scale(site: Site, scale: float | None, width: int, *, grows: bool) -> float:
    """Factor on the scores q k^T of an attention.

    In a wider model q k^T of trained queries and keys grows with their width, not with its square root (Yang et al.,
    2022, arXiv:2203.03466, definition 4.1), so the factor is divided by the width multiplier.

    Args:
        site: the mixer's site.
        scale: factor at the base width; None: 1 / sqrt(width there).
        width: of queries and keys.
        grows: whether it grows with the model's width.
    """
    wider = site.width_multiplier if grows else 1.0
    return ((width / wider) ** -0.5 if scale is None else scale) / wider


def projection_axes(names: tuple[str, ...], heads: Axis) -> Axes:
    """Axes of the weights and biases of projections to ``heads``."""
    return {f"{name}.weight": (heads, None) for name in names} | {f"{name}.bias": (heads,) for name in names}


def grouped_axes(
    q: HeadProjection, kv_heads: int, value_dim: int, gate: HeadProjection | None, **norms: NormedHeads
) -> Axes:
    """Axes of the parameters of an attention in which each key and value head serves a group of query heads.

    Args:
        q: projection to the query heads.
        kv_heads: number of key heads, as wide as those of the queries.
        value_dim: width of each head's values.
        gate: projection to the gates of the outputs; None: no gate.
        norms: ``q_norm``, ``k_norm`` and ``out_norm``, each with what it normalises.
    """
    queries = Heads(q.heads, q.head_dim, keys=kv_heads)
    outputs, keys = replace(queries, each=value_dim), KeyHeads(kv_heads, q.head_dim, queries=q.heads)
    axes: dict[str, tuple[Axis | None, ...]] = {
        **projection_axes(("q",), queries),
        **projection_axes(("k",), keys),
        **projection_axes(("v",), replace(keys, each=value_dim)),
        **projection_axes(("gate",), replace(queries, each=gate.head_dim if gate else 1)),
        "out.weight": (None, replace(outputs, zero_new=True)),
        "sinks": (replace(queries, each=1),),
    }
    for name, (norm, over) in norms.items():
        heads = {"q_norm": queries, "k_norm": keys, "out_norm": outputs}[name]
        axes |= _norm_axes(name, norm, heads, over)
    return axes


def _norm_axes(name: str, norm: Norm | None, heads: Axis, over: NormOver) -> Axes:
    if norm is None or over == "head":  # one set of weights serves any number of heads
        return {}
    parameters = {f"{name}.{leaf}": parameter for leaf, parameter in norm.named_parameters()}
    if over == "heads":
        return {leaf: (replace(heads, each=1), None) for leaf, one in parameters.items() if one.ndim == 2}
    return {leaf: (heads,) for leaf, one in parameters.items() if one.numel() == heads.size * heads.each}
