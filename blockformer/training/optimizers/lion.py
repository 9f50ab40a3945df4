"""Lion."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from blockformer.training.optimizers.adamw import Decay
from blockformer.training.optimizers.base import Group, OptimizerComponent, Sharding
from blocks.base import WidthMultipliers
from registry import register


@register("lion")
class Lion(OptimizerComponent):
    """Steps of one size for every entry, in the direction of the sign of the momentum; half the memory of AdamW.

    The learning rate is 3 to 10 times smaller than AdamW's, and the decay of weights as much larger.

    Args:
        beta1: Weight of the momentum in the direction of a step.
        beta2: Decay rate of the momentum.
    """

    paper = "Chen et al., 2023, Symbolic Discovery of Optimization Algorithms, arXiv:2302.06675"
    formula = (
        "w_t = (1 - lr * decay) w_(t-1) - lr * sign(beta_1 m_(t-1) + (1 - beta_1) g_t); "
        "m_t = beta_2 m_(t-1) + (1 - beta_2) g_t"
    )

    def __init__(self, *, beta1: Decay = 0.9, beta2: Decay = 0.99) -> None:
        self.betas = (beta1, beta2)

    def make(self, groups: list[Group], *, fused: bool, sharding: Sharding) -> Optimizer:
        return LionOptimizer(groups, {"betas": self.betas})

    def state_shapes(self, parameter: Tensor, *, matrix: bool) -> dict[str, tuple[int, ...]]:
        return {"exp_avg": tuple(parameter.shape)}

    def width_factor(self, width: WidthMultipliers, *, matrix: bool) -> float:
        return 1 / width.fan_in  # entries change by about lr, whatever their number


class LionOptimizer(Optimizer):
    """p <- (1 - lr * decay) * p - lr * sign(beta1 * m + (1 - beta1) * g), then m <- beta2 * m + (1 - beta2) * g."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            (beta1, beta2), lr = group["betas"], group["lr"]
            for parameter in (one for one in group["params"] if one.grad is not None):
                gradient, state = parameter.grad, self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                momentum = state["exp_avg"]
                parameter.mul_(1 - lr * group["weight_decay"])
                parameter.sub_(momentum.lerp(gradient.to(momentum.dtype), 1 - beta1).sign_(), alpha=lr)
                momentum.lerp_(gradient.to(momentum.dtype), 1 - beta2)
        return loss
