"""Routing by sampling one expert after another."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from blocks.base import Axis, Context, Fixed, Router, Site
from blocks.routing.balance import Balance, counted_tokens
from blocks.routing.choice import CHOICE
from blocks.routing.logits import router_logits
from registry import NonNegativeFloat, Positive, register


@register("sparse_mixer")
class SparseMixerRouter(Router):
    """Choose one expert after another, each by a softmax over W x of the experts that are nearly the best.

    Nearly the best are those of the experts left whose W x is below the largest by at most 2 * ``jitter`` times the
    larger of |W x| and the largest. An expert's weight is its probability among them. In evaluation the best is chosen;
    in training one is sampled, and Heun's third-order method estimates the gradient of the choice.

    Args:
        top_k: number of experts for each token.
        jitter: half the relative difference from the best expert up to which others take part in the choice.
        sampling: sample in training; otherwise the best is chosen, and the gradient is that of its weight.
        balance_loss: coefficient of the load-balancing loss, which is ``top_k`` if all experts are chosen equally often
            and larger otherwise; 0: disabled.
    """

    paper = "Liu et al., 2024, arXiv:2409.12136, section 2"
    formula = 'e_1 = argmax_e (W x)_e; w_e = softmax(W x "over the experts that are nearly the best")_e'
    intermediates = CHOICE

    def __init__(
        self,
        site: Site,
        *,
        top_k: Positive = 2,
        jitter: NonNegativeFloat = 0.1,
        sampling: bool = True,
        balance_loss: NonNegativeFloat = 0.01,
    ) -> None:
        super().__init__(site)
        experts = site.experts or 1
        if top_k > experts:
            raise ValueError(f"top_k={top_k} is more than the {experts} experts to choose from")
        self.top_k, self.jitter, self.sampling = top_k, jitter, sampling
        self.linear = nn.Linear(site.dim, experts, bias=False)
        self.balance = Balance(experts, balance_loss) if balance_loss else None

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        return {"linear.weight": (Fixed(self.linear.out_features), None)}

    def prepare(self, context: Context) -> None:
        if self.balance is not None and self.training:
            self.balance.begin(counted_tokens(context))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = left = router_logits(self.linear, x)
        weights: list[Tensor] = []  # list[Tensor]() would stop torch.compile
        chosen: list[Tensor] = []
        for _ in range(self.top_k):
            weight, index = self._pick(logits, left)
            left = left.scatter(1, index, -torch.inf)
            weights.append(weight)
            chosen.append(index)
        indices = torch.cat(chosen, dim=1)
        if self.balance is not None and self.training:
            self.balance.record(logits, indices)
        found = torch.cat(weights, dim=1)
        self.record(logits=logits, chosen=indices, weights=found)
        return found, indices

    def _pick(self, logits: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        """The weight of an expert of those left, and its index, (N, 1) each."""
        known = logits.detach()
        largest, best = left.detach().max(dim=1, keepdim=True)
        far = (largest - known) / torch.maximum(known.abs(), largest) > 2 * self.jitter
        near = left.masked_fill(far, -torch.inf)
        probabilities = near.softmax(dim=1)
        if not self.training or not self.sampling:
            return probabilities.gather(1, best), best
        gumbel = -torch.empty_like(known).exponential_().log()
        sampled = (near.detach() + gumbel).argmax(dim=1, keepdim=True)
        weight = probabilities.gather(1, sampled)
        whole = (sampled == best) | (torch.rand_like(largest) > 0.75)
        scaled = torch.where(whole, weight, weight / 3)
        return weight + (scaled - weight).detach(), sampled

    def auxiliary_loss(self, reduce: Callable[[Tensor], Tensor]) -> Tensor | None:
        if self.balance is None or not self.training:
            return None
        return self.balance.loss(_softmax, reduce)


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(dim=1)
