"""AdamW."""

from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.optim import AdamW as TorchAdamW
from torch.optim import Optimizer

from blockformer.training.optimizers.base import Group, OptimizerComponent, Sharding
from blocks.base import WidthMultipliers
from registry import register

SMALLEST = 1e-37  # of float32, with a margin
Decay = Annotated[float, Field(ge=0, lt=1)]
Epsilon = Annotated[float, Field(ge=SMALLEST, le=1)]


@register("adamw")
class AdamW(OptimizerComponent):
    """Adam, with the decay of weights kept apart from the gradient.

    Args:
        beta1: Decay rate of the running mean of the gradient.
        beta2: Decay rate of the running mean of the squared gradient.
        eps: Added to the square root of the second moment.
    """

    paper = "Loshchilov and Hutter, 2019, Decoupled Weight Decay Regularization, arXiv:1711.05101"
    formula = (
        "m_t = beta_1 m_(t-1) + (1 - beta_1) g_t; v_t = beta_2 v_(t-1) + (1 - beta_2) g_t^2; "
        "w_t = (1 - lr * decay) w_(t-1) - lr * (m_t / (1 - beta_1^t)) / (sqrt(v_t / (1 - beta_2^t)) + eps)"
    )

    def __init__(self, *, beta1: Decay = 0.9, beta2: Decay = 0.95, eps: Epsilon = 1e-8) -> None:
        self.betas, self.eps = (beta1, beta2), eps

    def make(self, groups: list[Group], *, fused: bool, sharding: Sharding) -> Optimizer:
        return TorchAdamW(groups, betas=self.betas, eps=self.eps, fused=fused)

    def state_shapes(self, parameter: Tensor, *, matrix: bool) -> dict[str, tuple[int, ...]]:
        return {"step": (), "exp_avg": tuple(parameter.shape), "exp_avg_sq": tuple(parameter.shape)}

    def width_factor(self, width: WidthMultipliers, *, matrix: bool) -> float:
        return 1 / width.fan_in  # entries change by about lr, whatever their number
