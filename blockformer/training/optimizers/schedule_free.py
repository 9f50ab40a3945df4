"""AdamW without a schedule."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from blockformer.training.optimizers.adamw import Decay, Epsilon
from blockformer.training.optimizers.base import Group, OptimizerComponent, Sharding
from blocks.base import WidthMultipliers
from registry import register


@register("schedule_free")
class ScheduleFree(OptimizerComponent):
    """AdamW whose parameters are an average of its iterates, in place of a learning rate that falls.

    Gradients are taken between the average x and the newest iterate z, at (1 - beta1) z + beta1 x. Between steps the
    parameters are x, so validation and checkpoints have the average.

    Args:
        beta1: Share of the average in the place where gradients are taken.
        beta2: Decay rate of the running mean of the squared gradient.
        eps: Added to the square root of the second moment.
    """

    paper = "Defazio et al., 2024, The Road Less Scheduled, arXiv:2405.15682"
    formula = (
        "y_t = (1 - beta_1) z_t + beta_1 x_t; v_t = beta_2 v_(t-1) + (1 - beta_2) g(y_t)^2; "
        "z_(t+1) = z_t - lr * (g(y_t) / (sqrt(v_t / (1 - beta_2^t)) + eps) + decay * y_t); "
        "x_(t+1) = (1 - c) x_t + c z_(t+1); c = lr^2 / sum_(s<=t) lr_s^2"
    )
    default_schedule = "constant"
    schedules = ("constant",)

    def __init__(self, *, beta1: Decay = 0.9, beta2: Decay = 0.99, eps: Epsilon = 1e-8) -> None:
        self.betas, self.eps = (beta1, beta2), eps

    def make(self, groups: list[Group], *, fused: bool, sharding: Sharding) -> Optimizer:
        return ScheduleFreeAdamW(groups, {"betas": self.betas, "eps": self.eps})

    def state_shapes(self, parameter: Tensor, *, matrix: bool) -> dict[str, tuple[int, ...]]:
        return {"step": (), "weights": (), "z": tuple(parameter.shape), "exp_avg_sq": tuple(parameter.shape)}

    def width_factor(self, width: WidthMultipliers, *, matrix: bool) -> float:
        return 1 / width.fan_in  # entries change by about lr, whatever their number


class ScheduleFreeAdamW(Optimizer):
    """The parameters are x between steps and y, where gradients are taken, from `begin_step` to `step`.

    z <- z - lr * (g / (sqrt(v / (1 - beta2^t)) + eps) + decay * y), then x <- x + c * (z - x) with c = lr^2 / (the sum
    of lr^2 so far).
    """

    def __init__(self, groups: list[Group], defaults: dict[str, Any]) -> None:
        super().__init__(groups, defaults)
        self._averages: dict[Tensor, Tensor] = {}  # x, while the parameters are y

    @torch.no_grad()
    def begin_step(self) -> None:
        """Move the parameters to where gradients are taken."""
        self.end_step()
        for group in self.param_groups:
            for parameter in group["params"]:
                if (z := self.state.get(parameter, {}).get("z")) is not None:
                    self._averages[parameter] = parameter.clone()
                    parameter.lerp_(z, 1 - group["betas"][0])

    @torch.no_grad()
    def end_step(self) -> None:
        """Move the parameters back to the averages, where no step was made."""
        for parameter, average in self._averages.items():
            parameter.copy_(average)
        self._averages.clear()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            beta2, lr = group["betas"][1], group["lr"]
            for parameter in (one for one in group["params"] if one.grad is not None):
                state, gradient = self.state[parameter], parameter.grad
                if not state:
                    state["step"], state["weights"] = torch.zeros(()), torch.zeros(())
                    state["z"], state["exp_avg_sq"] = parameter.clone(), torch.zeros_like(parameter)
                state["step"] += 1
                state["weights"] += lr**2
                second, z = state["exp_avg_sq"], state["z"]
                second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                scale = (second / (1 - beta2 ** state["step"].item())).sqrt_().add_(group["eps"])
                z.sub_(gradient / scale + group["weight_decay"] * parameter, alpha=lr)
                average = self._averages.pop(parameter, parameter)
                share = lr**2 / state["weights"].item() if lr else 0.0
                parameter.copy_(average.lerp(z, share))
        self.end_step()
        return loss
