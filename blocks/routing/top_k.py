"""Top-k routing."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from blocks.base import Axis, Context, Factory, Fixed, Intermediate, Norm, Router, Site
from blocks.routing.balance import Balance, counted_tokens
from blocks.routing.choice import CHOICE
from blocks.routing.logits import router_logits
from registry import NonNegativeFloat, Positive, PositiveFloat, register

Function = Callable[[Tensor], Tensor]


def _identity(x: Tensor) -> Tensor:
    return x


def _softmax(x: Tensor) -> Tensor:
    return x.softmax(-1)


def _normalised(x: Tensor) -> Tensor:
    return x / (x.sum(-1, keepdim=True) + 1e-20)  # a sum of sigmoids can be 0


def _share_of_sigmoids(logits: Tensor) -> Tensor:
    return _normalised(logits.sigmoid())


def _sqrt_softplus(logits: Tensor) -> Tensor:
    scores = torch.logaddexp(logits, torch.zeros_like(logits))
    return scores.clamp(min=torch.finfo(scores.dtype).tiny).sqrt()  # at 0 it has no gradient


def _share_of_sqrt_softplus(logits: Tensor) -> Tensor:
    return _normalised(_sqrt_softplus(logits))


_SCORES: Mapping[str, Function] = {
    "softmax": _softmax,
    "sigmoid": torch.sigmoid,
    "sqrt_softplus": _sqrt_softplus,
    "logits": _identity,
}
_WEIGHTS: Mapping[str, Function] = {"scores": _identity, "normalised": _normalised, "softmax": _softmax}
_PROBABILITIES: Mapping[str, Function] = {
    "softmax": _softmax,
    "sigmoid": _share_of_sigmoids,
    "sqrt_softplus": _share_of_sqrt_softplus,
    "logits": _softmax,
}
_BEST = {"max": 1, "top2": 2}  # number of best experts in a group's score


@register("top_k")
class TopKRouter(Router):
    """Route each token to the experts with the highest scores, a function of W x in float32 or wider.

    Softmax, then top-k (Mixtral) is ``scores: softmax``; top-k, then softmax (GPT-OSS) is ``scores: logits`` with
    ``weights: softmax``; sigmoid (DeepSeek-V3) is ``scores: sigmoid``.

    Args:
        top_k: number of experts for each token.
        scores: scores of the experts: W x (logits), its softmax over all experts (softmax), its sigmoid (sigmoid),
            or the square root of log(1 + exp(W x)) (sqrt_softplus).
        weights: weights of the chosen experts: their scores (scores), their scores divided by the sum (normalised), or
            the softmax over their scores (softmax). With ``top_k`` 1 the other two are always 1: the router does not
            learn.
        scale: factor on the weights.
        bias: add a learned bias to W x.
        norm: norm of x; null: disabled.
        logit_scale: factor on W x.
        expert_scale: multiply the weight of each expert by a learned number of its own, 1 at the start.
        softcap: bound c on W x, as c * tanh(W x / c); null: disabled.
        choose_by: choose by the scores, or by W x before the function (logits); they differ in what is chosen with the
            bias of ``balance_rate`` and with ``group_score`` top2.
        groups: number of groups of consecutive experts, a divisor of the number of experts.
        top_groups: number of groups from which a token's experts are chosen; null: all.
        group_score: score of a group: its highest score (max) or the sum of its two highest scores (top2).
        balance_loss: coefficient of the load-balancing loss, which is ``top_k`` if all experts are chosen equally often
            and larger otherwise; 0: disabled.
        balance_rate: step of loss-free balancing, which adds a bias to the scores for the choice but not to the
            weights;
            after each training step it decreases for experts above the mean load and increases for the others. 0: a
            bias that does not change; null: no bias.
    """

    paper = (
        "Shazeer et al., 2017, arXiv:1701.06538; loss: Fedus et al., 2021, arXiv:2101.03961; loss-free: Wang et al., "
        "2024, arXiv:2408.15664; sigmoid and groups: DeepSeek-AI, 2024, arXiv:2412.19437; "
        "sqrt_softplus: DeepSeek-AI, 2026 (DeepSeek-V4)"
    )
    formula = "chosen(x) = top_k(scores(W x)); w_e = scores(W x)_e / sum_(j ∈ chosen(x)) scores(W x)_j"
    intermediates: ClassVar[Mapping[str, Intermediate]] = {
        **CHOICE,
        "logits": replace(CHOICE["logits"], formula="L = softcap({logit_scale:*}{logit_sum})"),
    }

    def __init__(
        self,
        site: Site,
        *,
        top_k: Positive = 2,
        scores: Literal["softmax", "sigmoid", "sqrt_softplus", "logits"] = "softmax",
        weights: Literal["scores", "normalised", "softmax"] = "normalised",
        scale: PositiveFloat = 1.0,
        bias: bool = False,
        norm: Factory[Norm] | None = None,
        logit_scale: PositiveFloat = 1.0,
        expert_scale: bool = False,
        softcap: PositiveFloat | None = None,
        choose_by: Literal["scores", "logits"] = "scores",
        groups: Positive = 1,
        top_groups: Positive | None = None,
        group_score: Literal["max", "top2"] = "max",
        balance_loss: NonNegativeFloat = 0.01,
        balance_rate: NonNegativeFloat | None = None,
    ) -> None:
        super().__init__(site)
        experts = site.experts or 1
        _check(experts, top_k, groups, top_groups, _BEST[group_score])
        if scores == "logits" and weights == "normalised":
            raise ValueError(
                "weights=normalised divides by the sum of scores, which can be 0 for logits; choose weights=softmax"
            )
        self.top_k, self.scale = top_k, scale
        self.scores, self.weights, self.softcap = scores, weights, softcap
        if top_groups is None or top_groups == groups:  # all groups: any experts can be chosen
            groups, top_groups, group_score = 1, 1, "max"
        self.groups, self.top_groups, self.group_score = groups, top_groups, group_score
        in_order = balance_rate is None and group_score == "max"  # then scores are in the order of the logits
        self.choose_by = "scores" if scores == "logits" or in_order else choose_by
        self.norm, self.logit_scale = norm(replace(site, experts=None)) if norm else None, logit_scale
        self.linear = nn.Linear(site.dim, experts, bias=bias)
        self.expert_scale = nn.Parameter(torch.ones(experts)) if expert_scale else None
        self.rate, self.selection_bias = balance_rate, None
        if balance_rate is not None:
            self.selection_bias = nn.Parameter(torch.zeros(experts), requires_grad=False)
        self.balance = Balance(experts, balance_loss) if balance_loss or balance_rate else None

    @property
    def score(self) -> str:
        """Name of the function that makes scores of logits; empty: they are the scores."""
        return "" if self.scores == "logits" else self.scores

    @property
    def logit_sum(self) -> str:
        """The projection to the logits, in their formula: in brackets where the scale multiplies a bias too."""
        if self.linear.bias is None:  # pyright: ignore[reportUnnecessaryComparison]
            return "norm(x) W"
        return "norm(x) W + b" if self.logit_scale == 1.0 else "(norm(x) W + b)"

    def constants(self) -> Mapping[str, float]:
        return {"selection_bias": 0.0, "expert_scale": 1.0}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        experts = Fixed(self.linear.out_features)
        return {"linear.weight": (experts, None), "selection_bias": (experts,), "expert_scale": (experts,)}

    def prepare(self, context: Context) -> None:
        if self.balance is not None and self.training:
            self.balance.begin(counted_tokens(context))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = router_logits(self.linear, x if self.norm is None else self.norm(x))
        logits = logits if self.logit_scale == 1.0 else logits * self.logit_scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        scores = _SCORES[self.scores](logits)
        chosen = self._choose((logits if self.choose_by == "logits" else scores).detach())
        if self.balance is not None and self.training:
            self.balance.record(logits, chosen)
        weights = _WEIGHTS[self.weights](scores.gather(1, chosen)) * self.scale
        if self.expert_scale is not None:
            weights = weights * self.expert_scale.to(weights.dtype)[chosen]
        self.record(logits=logits, scores=scores, chosen=chosen, weights=weights)
        return weights, chosen

    def _choose(self, scores: Tensor) -> Tensor:
        if self.selection_bias is not None:
            scores = scores + self.selection_bias
        if self.top_groups < self.groups:
            grouped = scores.view(len(scores), self.groups, scores.shape[1] // self.groups)
            best = grouped.topk(_BEST[self.group_score]).values.sum(-1)
            kept = torch.zeros_like(best, dtype=torch.bool).scatter_(1, best.topk(self.top_groups).indices, True)
            scores = grouped.masked_fill(~kept[..., None], -torch.inf).flatten(1)
        return scores.topk(self.top_k).indices

    def auxiliary_loss(self, reduce: Callable[[Tensor], Tensor]) -> Tensor | None:
        if self.balance is None or not self.training:
            return None
        return self.balance.loss(_PROBABILITIES[self.scores], reduce)

    def update(self) -> None:
        counts = None if self.balance is None else self.balance.take_load()
        if counts is not None and self.selection_bias is not None and self.rate:
            with torch.no_grad():
                self.selection_bias += self.rate * (counts.mean() - counts).sign()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Keep the selection bias in float32: in bfloat16 its small steps would be lost by rounding."""
        module = super()._apply(fn, recurse)  # pyright: ignore[reportUnknownMemberType]
        if self.selection_bias is not None:
            self.selection_bias.data = self.selection_bias.data.float()
        return module


def _check(experts: int, top_k: int, groups: int, top_groups: int | None, best: int) -> None:
    if experts % groups:
        raise ValueError(f"experts={experts} is not a multiple of groups={groups}")
    if (top_groups or groups) > groups:
        raise ValueError(f"top_groups={top_groups} is more than groups={groups}")
    within = (top_groups or groups) * experts // groups
    if top_k > within:
        raise ValueError(f"top_k={top_k} is more than the {within} experts to choose from")
    if top_groups and experts // groups < best:
        raise ValueError(f"group_score=top2 needs groups of two experts, but {experts} in groups={groups} have one")
