"""Stochastic gradient descent."""

from torch import Tensor
from torch.optim import SGD as TorchSGD  # noqa: N811
from torch.optim import Optimizer

from blockformer.training.optimizers.adamw import Decay
from blockformer.training.optimizers.base import Group, OptimizerComponent, Sharding
from blocks.base import WidthMultipliers
from registry import register


@register("sgd")
class SGD(OptimizerComponent):
    """Gradient descent with momentum; the decay of weights is added to the gradient.

    Args:
        momentum: Share of the earlier direction that is kept.
        nesterov: Take the gradient as if the momentum had been applied already.
    """

    paper = "Sutskever et al., 2013, On the importance of initialization and momentum in deep learning, ICML"
    formula = "m_t = momentum * m_(t-1) + g_t + decay * w_(t-1); w_t = w_(t-1) - lr * m_t"

    def __init__(self, *, momentum: Decay = 0.9, nesterov: bool = False) -> None:
        self.momentum, self.nesterov = momentum, nesterov and momentum > 0

    def make(self, groups: list[Group], *, fused: bool, sharding: Sharding) -> Optimizer:
        return TorchSGD(groups, momentum=self.momentum, nesterov=self.nesterov, fused=fused)

    def state_shapes(self, parameter: Tensor, *, matrix: bool) -> dict[str, tuple[int, ...]]:
        return {"momentum_buffer": tuple(parameter.shape)} if self.momentum else {}

    def width_factor(self, width: WidthMultipliers, *, matrix: bool) -> float:
        return width.fan_out / width.fan_in  # gradients shrink as outputs grow in number
