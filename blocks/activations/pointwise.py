"""The common pointwise non-linearities."""

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.base import Activation
from registry import register


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)); torch.compile computes wrong gradients of F.softplus for transposed tensors."""
    return torch.logaddexp(x, torch.zeros_like(x))


@register("relu")
class ReLU(Activation):
    """max(x, 0), as in the original Transformer."""

    paper = "Nair & Hinton, 2010"
    formula = "y = max(x, 0)"

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


@register("relu2")
class ReLUSquared(Activation):
    """max(x, 0)^2."""

    paper = "So et al., 2021, arXiv:2109.08668"
    formula = "y = max(x, 0)^2"

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x).square()


@register("gelu")
class GELU(Activation):
    """x * Phi(x), where Phi is the normal distribution's cumulative distribution function."""

    paper = "Hendrycks & Gimpel, 2016, arXiv:1606.08415"
    formula = "y = x Phi(x)"

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x)


@register("gelu_tanh")
class GELUTanh(Activation):
    """GELU with Phi approximated by a tanh, as in GPT-2."""

    paper = "Hendrycks & Gimpel, 2016, arXiv:1606.08415"
    formula = "y = x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))"

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


@register("silu")
class SiLU(Activation):
    """x * sigmoid(x), also called swish."""

    paper = "Elfwing et al., 2017, arXiv:1702.03118; Ramachandran et al., 2017, arXiv:1710.05941"
    formula = "y = x / (1 + exp(-x))"

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x)


@register("swish")
class Swish(Activation):
    """x * sigmoid(beta * x); with beta=1.702 an approximation of GELU.

    Args:
        beta: slope of the sigmoid.
    """

    paper = "Ramachandran et al., 2017, arXiv:1710.05941; Hendrycks & Gimpel, 2016, arXiv:1606.08415"
    formula = "y = x / (1 + exp(-beta x))"

    def __init__(self, *, beta: float = 1.702) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


@register("sigmoid")
class Sigmoid(Activation):
    """1 / (1 + exp(-x)); in a gated feed-forward it gives the original GLU."""

    paper = "Dauphin et al., 2016, arXiv:1612.08083"
    formula = "y = 1 / (1 + exp(-x))"

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)


@register("softplus")
class Softplus(Activation):
    """log(1 + exp(x)), a smooth approximation of ReLU."""

    paper = "Dugas et al., 2000"
    formula = "y = log(1 + exp(x))"

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return softplus(x)


@register("tanh")
class Tanh(Activation):
    """tanh(x)."""

    formula = "y = (exp(x) - exp(-x)) / (exp(x) + exp(-x))"

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


@register("identity")
class Identity(Activation):
    """x: makes a feed-forward linear, or bilinear if it is gated."""

    formula = "y = x"

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x
