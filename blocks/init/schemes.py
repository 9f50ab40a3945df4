"""Initialisation schemes."""

from collections.abc import Sequence

from torch import Generator, Tensor, nn

from blocks.base import Init, Role
from registry import PositiveFloat, register


@register("normal")
class Normal(Init):
    """Draw all parameters from one normal distribution.

    Args:
        std: standard deviation.
    """

    paper = "Devlin et al., 2018, arXiv:1810.04805 (std 0.02)"
    formula = "w ~ N(0, std^2)"

    def __init__(self, *, std: PositiveFloat = 0.02) -> None:
        self.std = std

    def draw(self, weight: Tensor, role: Role, depth: int, generator: Generator) -> None:
        weight.normal_(0.0, self.deviation(weight.shape, role, depth), generator=generator)

    def deviation(self, shape: Sequence[int], role: Role, depth: int) -> float:
        return self.std


@register("depth_scaled")
class DepthScaled(Init):
    """Draw from a normal distribution, with std / sqrt(2 * depth) for output projections.

    Args:
        std: standard deviation of all other parameters.
    """

    paper = "Radford et al., 2019 (GPT-2), section 2.3"
    formula = "w ~ N(0, std^2); w_out ~ N(0, std^2 / (2 depth))"

    def __init__(self, *, std: PositiveFloat = 0.02) -> None:
        self.std = std

    def draw(self, weight: Tensor, role: Role, depth: int, generator: Generator) -> None:
        weight.normal_(0.0, self.deviation(weight.shape, role, depth), generator=generator)

    def deviation(self, shape: Sequence[int], role: Role, depth: int) -> float:
        return self.std / (2 * depth) ** 0.5 if role == "output" else self.std


@register("xavier")
class Xavier(Init):
    """Draw matrices uniformly so that variance is preserved, embeddings from a normal distribution, std width^-0.5."""

    paper = "Glorot & Bengio, 2010"
    formula = "w ~ U(-a, a), a = sqrt(6 / (in + out))"

    def __init__(self) -> None:
        super().__init__()

    def draw(self, weight: Tensor, role: Role, depth: int, generator: Generator) -> None:
        if role == "embedding":
            weight.normal_(0.0, self.deviation(weight.shape, role, depth), generator=generator)
        else:
            for matrix in weight.view(-1, *weight.shape[-2:]):  # one per expert
                nn.init.xavier_uniform_(matrix, generator=generator)

    def deviation(self, shape: Sequence[int], role: Role, depth: int) -> float:
        return shape[-1] ** -0.5 if role == "embedding" else (2 / (shape[-2] + shape[-1])) ** 0.5
