"""Ways to draw initial values."""

from collections.abc import Sequence

from torch import Generator, Tensor, nn

from blocks.base import Init, Role
from registry import PositiveFloat, register


@register("normal")
class Normal(Init):
    """Everything from one normal distribution.

    Args:
        std: its standard deviation.
    """

    paper = "Devlin et al., 2018, arXiv:1810.04805 (std 0.02)"

    def __init__(self, *, std: PositiveFloat = 0.02) -> None:
        self.std = std

    def draw(self, weight: Tensor, role: Role, depth: int, generator: Generator) -> None:
        weight.normal_(0.0, self.deviation(weight.shape, role, depth), generator=generator)

    def deviation(self, shape: Sequence[int], role: Role, depth: int) -> float:
        return self.std


@register("depth_scaled")
class DepthScaled(Init):
    """A normal distribution, narrower by sqrt(2 * depth) for what is added to the residual stream, to keep its scale.

    Args:
        std: standard deviation of everything else.
    """

    paper = "Radford et al., 2019 (GPT-2), section 2.3"

    def __init__(self, *, std: PositiveFloat = 0.02) -> None:
        self.std = std

    def draw(self, weight: Tensor, role: Role, depth: int, generator: Generator) -> None:
        weight.normal_(0.0, self.deviation(weight.shape, role, depth), generator=generator)

    def deviation(self, shape: Sequence[int], role: Role, depth: int) -> float:
        return self.std / (2 * depth) ** 0.5 if role == "output" else self.std


@register("xavier")
class Xavier(Init):
    """Matrices uniform so that variance is kept forward and backward; embeddings normal with std width^-0.5."""

    paper = "Glorot & Bengio, 2010"

    def __init__(self) -> None:
        super().__init__()

    def draw(self, weight: Tensor, role: Role, depth: int, generator: Generator) -> None:
        if role == "embedding":
            weight.normal_(0.0, self.deviation(weight.shape, role, depth), generator=generator)
        else:
            for matrix in weight.view(-1, *weight.shape[-2:]):  # of experts, each has one
                nn.init.xavier_uniform_(matrix, generator=generator)

    def deviation(self, shape: Sequence[int], role: Role, depth: int) -> float:
        return shape[-1] ** -0.5 if role == "embedding" else (2 / (shape[-2] + shape[-1])) ** 0.5
