"""Adafactor."""

from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.optim import Adafactor as TorchAdafactor
from torch.optim import Optimizer

from blockformer.training.optimizers.base import Group, OptimizerComponent, Sharding
from registry import PositiveFloat, register


@register("adafactor")
class Adafactor(OptimizerComponent):
    """The second moment of a matrix as a product of its rows' and its columns', without a first one.

    A step is measured by the size of the parameter: the learning rate is relative.

    Args:
        beta2_decay: Exponent c of the decay rate 1 - step^c of the second moment.
        smallest: Least size of a parameter, by which its steps are measured.
        clip: Largest root mean square of an update before it is scaled, at least 1.
    """

    paper = "Shazeer and Stern, 2018, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, arXiv:1804.04235"
    formula = (
        'r_t = b_t r_(t-1) + (1 - b_t) "row means of" G_t^2; c_t = b_t c_(t-1) + (1 - b_t) "column means of" G_t^2; '
        "U_t = G_t / sqrt(r_t c_t^T / mean(r_t)); b_t = 1 - t^c; "
        "W_t = (1 - lr * decay) W_(t-1) - min(lr, 1 / sqrt(t)) max(smallest, rms(W_(t-1))) U_t / "
        "max(1, rms(U_t) / clip)"
    )
    elementwise = False

    def __init__(
        self,
        *,
        beta2_decay: Annotated[float, Field(lt=0)] = -0.8,
        smallest: PositiveFloat = 1e-3,
        clip: Annotated[float, Field(ge=1)] = 1.0,
    ) -> None:
        self.beta2_decay, self.smallest, self.clip = beta2_decay, smallest, clip

    def make(self, groups: list[Group], *, fused: bool, sharding: Sharding) -> Optimizer:
        return TorchAdafactor(groups, beta2_decay=self.beta2_decay, eps=(None, self.smallest), d=self.clip)

    def state_shapes(self, parameter: Tensor, *, matrix: bool) -> dict[str, tuple[int, ...]]:
        shape = tuple(parameter.shape)
        if len(shape) < 2:
            return {"step": (), "variance": shape}
        return {"step": (), "row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, shape[-1])}
