"""Mixture of experts."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from blocks.base import (
    Axis,
    Context,
    Expert,
    Factory,
    FeedForward,
    Fixed,
    Intermediate,
    Linear,
    Norm,
    Router,
    Site,
    described,
)
from blocks.base.component import flops_per_token
from blocks.feedforward.dispatch import ExpertOrder
from blocks.feedforward.glu import GLU
from blocks.routing.top_k import TopKRouter
from registry import NonNegative, Positive, register


@register("moe")
class MixtureOfExperts(FeedForward):
    """Sum of w_e(x) expert_e(x) over the experts e that a router chooses for each token.

    Args:
        experts: number of experts.
        expert: the feed-forward of every expert; each has its own weights.
        router: chooses the experts of each token and their weights.
        shared: a feed-forward that is applied to every token and added to the experts' output; null: disabled.
        latent: width of a projection of the input that the experts work on, whose sum is projected back; null: dim.
        latent_bias: add learned biases to these two projections.
        identities: number of further experts without weights, which return their input and are chosen like the others.
        scale_inputs: multiply the experts' inputs by the weights w_e(x) instead of their outputs.
        bias: add a learned bias to the experts' sum.
        norm: norm of the experts' inputs, not of those of the router and the shared feed-forward; null: disabled.
        out_norm: norm of the experts' sum, before the shared feed-forward's output is added; null: disabled.
        shared_gate: multiply the shared feed-forward's output by sigmoid(w x), with a learned w.
    """

    paper = (
        "Shazeer et al., 2017, arXiv:1701.06538; Jiang et al., 2024, arXiv:2401.04088; "
        "shared experts: Dai et al., 2024, arXiv:2401.06066; latent: NVIDIA, 2025, arXiv:2512.20856; identities: "
        "Meituan LongCat Team, 2025, arXiv:2509.01322; scaled inputs: Meta, 2025 (Llama 4)"
    )
    formula = "y = sum_(e ∈ chosen(x)) w_e(x) expert_e(x)"
    intermediates = described(
        rows=Intermediate(
            "The token and the expert of each row: a token goes to the experts that the router chose.",
            ("row", "value"),
        ),
        expert_outputs=Intermediate(
            "What each chosen expert makes of its token.", ("token", "choice", "width"), "expert_e(x)"
        ),
        output=Intermediate(
            "The outputs of a token's experts, summed with the router's weights.",
            ("token", "width"),
            "out_norm(sum_e w_e expert_e(norm(x)){bias:+ b}){shared_term}",
            ("expert_outputs",),
        ),
    )

    def __init__(
        self,
        site: Site,
        *,
        experts: Positive = 8,
        expert: Factory[Expert] = GLU,
        router: Factory[Router] = TopKRouter,
        shared: Factory[FeedForward] | None = None,
        shared_gate: bool = False,
        latent: Positive | None = None,
        latent_bias: bool = False,
        identities: NonNegative = 0,
        scale_inputs: bool = False,
        bias: bool = False,
        norm: Factory[Norm] | None = None,
        out_norm: Factory[Norm] | None = None,
    ) -> None:
        super().__init__(site)
        if latent_bias and latent is None:
            raise ValueError("latent_bias needs latent, which is null; set latent or leave latent_bias out")
        self.size, self.identities, self.scale_inputs = experts, identities, scale_inputs
        self.router = router(replace(site, experts=experts + identities))
        width = latent or site.dim
        self.experts = expert(replace(site.resized(width), experts=experts))
        self.latent_down = Linear(site, site.dim, width, bias=latent_bias) if latent else None
        self.latent_up = Linear(site, width, site.dim, bias=latent_bias) if latent else None
        built = shared(site) if shared else None
        self.shared = None if built is None or built.is_noop else built
        if shared_gate and self.shared is None:
            raise ValueError("shared_gate needs a shared feed-forward, but shared is null; give one or leave it out")
        self.shared_gate = Linear(site, site.dim, 1, bias=False) if shared_gate else None
        self.bias = nn.Parameter(torch.zeros(site.dim)) if bias else None
        self.norm, self.out_norm = norm(site) if norm else None, out_norm(site) if out_norm else None

    @property
    def shared_term(self) -> str:
        """The part of the output's formula that the shared feed-forward adds."""
        gate = "" if self.shared_gate is None else "sigmoid(x W_s) * "
        return "" if self.shared is None else f" + {gate}shared(x)"

    def constants(self) -> Mapping[str, float]:
        return {"bias": 0.0}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        width = None if self.latent_down is None else Fixed(self.latent_down.out_features)
        return {
            "shared_gate.weight": (Fixed(1), None),
            "latent_down.weight": (width, None),
            "latent_up.weight": (None, width),
            "bias": (None,),
        }

    def fallback_names(self) -> Mapping[str, str]:
        """From a plain feed-forward, each expert starts as a copy of it."""
        return {f"experts.{name}": name for name, _ in self.experts.named_parameters()}

    @property
    def zero_at_zero(self) -> bool:
        return self.identities == 0 and self.experts.zero_at_zero and (self.shared is None or self.shared.zero_at_zero)

    def prepare(self, context: Context) -> None:
        self.router.prepare(context)
        if self.shared is not None:
            self.shared.prepare(context)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)  # (N, D)
        weights, chosen = self.router(rows)
        rows = rows if self.norm is None else self.norm(rows)
        y = self._routed(rows if self.latent_down is None else self.latent_down(rows), weights, chosen)
        y = (y if self.latent_up is None else self.latent_up(y)).view(x.shape)
        y = y if self.bias is None else y + self.bias.to(y.dtype)
        y = y if self.out_norm is None else self.out_norm(y)
        if self.shared is None:
            return y
        shared = self.shared(x)
        return y + (shared if self.shared_gate is None else torch.sigmoid(self.shared_gate(x)) * shared)

    def _routed(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """(N, D') -> (N, D'): the weighted sum of the chosen experts' outputs."""
        order = (
            ExpertOrder(chosen.clamp(max=self.size), self.size + 1)
            if self.identities
            else ExpertOrder(chosen, self.size)
        )
        inputs = order.spread(x)
        if self.scale_inputs:
            inputs = inputs * order.sorted(weights).to(x.dtype)[:, None]
            weights = torch.ones_like(weights)
        self.record(rows=torch.stack([order.order // order.top_k, chosen.flatten()[order.order]], dim=1))
        y = self.experts(inputs, order.offsets)
        if self.identities:
            index = torch.arange(len(y), device=y.device)
            y = torch.where((index >= order.offsets[-2])[:, None], inputs, y)
        self.record(expert_outputs=y[order.places].view(*chosen.shape, y.shape[1]))
        return order.gather(y, weights)

    def flops_per_token(self, length: int) -> float:
        inactive = flops_per_token(self.experts, length) * (self.router.top_k - 1)
        return super().flops_per_token(length) + inactive
