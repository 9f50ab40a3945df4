"""Mixture of experts."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from blocks.base import Context, Expert, Factory, FeedForward, Router, Site
from blocks.base.component import flops_per_token
from blocks.feedforward.glu import GLU
from blocks.feedforward.sorting import Sorting
from blocks.routing.top_k import TopKRouter
from registry import Positive, register


@register("moe")
class MixtureOfExperts(FeedForward):
    """sum over the chosen experts e of w_e(x) expert_e(x), where a router chooses some for each token and weighs them.

    Args:
        experts: number of experts.
        expert: what each of them is; they differ in their weights.
        router: chooses the experts of a token.
        shared: a feed-forward that every token passes besides, added to what the experts give; null: none.
        shared_gate: multiply what the shared one gives by sigmoid(w x), with a learned w.
    """

    paper = (
        "Shazeer et al., 2017, arXiv:1701.06538; Jiang et al., 2024, arXiv:2401.04088; "
        "shared experts: Dai et al., 2024, arXiv:2401.06066"
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
    ) -> None:
        super().__init__(site)
        choice = replace(site, experts=experts)
        self.size = experts
        self.router, self.experts = router(choice), expert(choice)
        built = shared(site) if shared else None
        self.shared = None if built is None or built.is_noop else built
        if shared_gate and self.shared is None:
            raise ValueError("shared_gate needs a shared feed-forward to multiply, but there is none")
        self.shared_gate = nn.Linear(site.dim, 1, bias=False) if shared_gate else None

    def fallback_names(self) -> Mapping[str, str]:
        """What is no mixture yet can become every expert."""
        return {f"experts.{name}": name for name, _ in self.experts.named_parameters()}

    def prepare(self, context: Context) -> None:
        self.router.prepare(context)
        if self.shared is not None:
            self.shared.prepare(context)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)  # (N, D)
        weights, chosen = self.router(rows)
        sorting = Sorting(chosen, self.size)
        y = sorting.gather(self.experts(sorting.spread(rows), sorting.offsets), weights).view(x.shape)
        if self.shared is None:
            return y
        shared = self.shared(x)
        return y + (shared if self.shared_gate is None else torch.sigmoid(self.shared_gate(x)) * shared)

    def flops_per_token(self, length: int) -> float:
        inactive = flops_per_token(self.experts, length) * (self.router.top_k - 1)
        return super().flops_per_token(length) + inactive
