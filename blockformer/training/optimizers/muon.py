"""Muon for hidden matrices, AdamW for all other parameters."""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import AdamW, Optimizer

from blockformer.training.optimizers.adamw import Decay, Epsilon
from blockformer.training.optimizers.base import Group, OptimizerComponent, Sharding
from blocks.base import WidthMultipliers
from registry import Positive, register

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
TINY = 1e-7


@register("muon")
class Muon(OptimizerComponent):
    """Momentum whose matrix is made orthogonal before each step; AdamW for what is not a hidden matrix.

    Hidden matrices are the weights of projections inside the layers. Embeddings, the head over the vocabulary,
    convolutions, biases and norms go to AdamW. The matrices of experts are made orthogonal one by one. With
    `match_rms` both use one learning rate, about AdamW's.

    Args:
        momentum: Decay rate of the running mean of the gradient.
        nesterov: Take the gradient as if the momentum had been applied already.
        iterations: Newton-Schulz iterations that make a matrix orthogonal.
        precision: "bfloat16" or "float32", in which they are computed.
        scale: Step size by shape: "match_rms" is 0.2 * sqrt(max(rows, columns)), "original" sqrt(max(1, rows/columns)).
        beta1: AdamW's decay rate of the running mean of the gradient.
        beta2: AdamW's decay rate of the running mean of the squared gradient.
        eps: AdamW's, added to the square root of the second moment.
    """

    paper = "Jordan et al., 2024, Muon: An optimizer for hidden layers; match_rms: Liu et al., 2025, arXiv:2502.16982"
    formula = (
        "M_t = momentum * M_(t-1) + (1 - momentum) G_t; D_t = momentum * M_t + (1 - momentum) G_t; "
        'W_t = (1 - lr * decay) W_(t-1) - lr * scale * U V^T "for" D_t = U S V^T'
    )
    splits_matrices = True

    def __init__(
        self,
        *,
        momentum: Decay = 0.95,
        nesterov: bool = True,
        iterations: Annotated[Positive, Field(le=20)] = 5,
        precision: Literal["bfloat16", "float32"] = "bfloat16",
        scale: Literal["match_rms", "original"] = "match_rms",
        beta1: Decay = 0.9,
        beta2: Decay = 0.95,
        eps: Epsilon = 1e-8,
    ) -> None:
        self.muon = {"momentum": momentum, "nesterov": nesterov, "iterations": iterations, "scale": scale}
        self.muon["precision"] = precision
        self.betas, self.eps = (beta1, beta2), eps

    def make(self, groups: list[Group], *, fused: bool, sharding: Sharding) -> Optimizer:
        for group in groups:
            group |= self.muon if group["matrix"] else {}
        return MuonWithAdamW(groups, {"betas": self.betas, "eps": self.eps, "fused": fused}, sharding)

    def state_shapes(self, parameter: Tensor, *, matrix: bool) -> dict[str, tuple[int, ...]]:
        shape = tuple(parameter.shape)
        return {"momentum_buffer": shape} if matrix else {"step": (), "exp_avg": shape, "exp_avg_sq": shape}

    def width_factor(self, width: WidthMultipliers, *, matrix: bool) -> float:
        return 1.0 if matrix else 1 / width.fan_in  # of matrices, step_scale follows the width


class MuonWithAdamW(Optimizer):
    """One optimizer over both kinds of groups, which share its state and its groups with an AdamW inside.

    Args:
        groups: with `matrix`; those of matrices also with the settings of Muon.
        adamw: settings of AdamW.
        sharding: how to gather and split matrices.
    """

    def __init__(self, groups: list[Group], adamw: dict[str, Any], sharding: Sharding) -> None:
        others = [group for group in groups if not group["matrix"]]
        self._adamw = AdamW(others, **adamw) if others else None  # adds its settings to the groups
        self._sharding = sharding
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        if self._adamw is not None:
            self._adamw.param_groups = [group for group in self.param_groups if not group["matrix"]]
            self._adamw.state = self.state
            self._adamw.step()
        for group in self.param_groups:
            if group["matrix"]:
                for parameter in (one for one in group["params"] if one.grad is not None):
                    self._step(parameter, parameter.grad, group)
        return loss

    def _step(self, parameter: Tensor, gradient: Tensor, group: Group) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer, gradient = state["momentum_buffer"], gradient.to(parameter.dtype)
        buffer.lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer
        whole = self._sharding.whole(parameter, direction)
        dtype = torch.bfloat16 if group["precision"] == "bfloat16" else torch.float32
        update = orthogonal(whole, group["iterations"], dtype).to(parameter.dtype)
        rate = group["lr"] * step_scale(whole.shape, group["scale"], group.get("width", (1.0, 1.0)))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(self._sharding.part(parameter, update), alpha=rate)


def orthogonal(matrix: Tensor, iterations: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """About U V^T of the singular value decomposition U S V^T of each matrix, by Newton-Schulz iterations.

    Args:
        matrix: (..., M, N); it is not changed.
        iterations: number of iterations; after 5 the singular values are between about 0.7 and 1.2.
        dtype: in which they are computed.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = (matrix.mT if tall else matrix).to(dtype).reshape(-1, *sorted(matrix.shape[-2:]))
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=TINY)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).reshape(matrix.shape)


def step_scale(shape: torch.Size, kind: str, width: tuple[float, float] = (1.0, 1.0)) -> float:
    """The factor of the learning rate for a matrix of this shape, which is the spectral norm of its step.

    Args:
        shape: (..., rows, columns).
        kind: match_rms or original.
        width: rows and columns relative to those at the base width of the model's init. From there on the norm of a
            step grows as sqrt(rows / columns) (Yang et al., 2023, arXiv:2310.17813, condition 1).
    """
    rows, columns = (size / ratio for size, ratio in zip(shape[-2:], width, strict=True))
    at_base = 0.2 * math.sqrt(max(rows, columns)) if kind == "match_rms" else math.sqrt(max(1.0, rows / columns))
    return at_base * math.sqrt(width[0] / width[1])
