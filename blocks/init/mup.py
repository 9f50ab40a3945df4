"""The maximal update parametrisation."""

from collections.abc import Sequence

from torch import Generator, Tensor

from blocks.base import Init, Role, SitelessFactory, WidthMultipliers
from blocks.init.schemes import Normal
from registry import Positive, register


@register("mup")
class MaximalUpdate(Init):
    """Scale initial values, attention scores, tied logits and learning rates with the model's width.

    The best learning rate at the base width then stays the best at other widths. At the base width everything is as
    with ``inner`` alone. In a model that is m times as wide, with all its sizes m times as large except those that
    blocks declare fixed (vocabulary, positions, experts, ...), the standard deviation of a matrix is divided by sqrt(m)
    if inputs and outputs grow and by m if only its inputs grow; other parameters keep theirs. Optimizers divide the
    learning rate of a matrix whose inputs grow by m (AdamW), or follow their own rule.

    Attention scores are divided by m instead of sqrt(m) where the width of a head is dim / heads. A given ``head_dim``
    is kept for all widths: then the number of heads grows.

    Args:
        base_width: the model's ``dim`` at which the learning rate was chosen.
        inner: draws the values, as at the base width.
    """

    paper = (
        "Yang et al., 2022, arXiv:2203.03466, table 3; as a condition on spectral norms: Yang et al., 2023, "
        "arXiv:2310.17813"
    )
    formula = "m = dim / base_width; w ~ N(0, std^2 / m); lr_hidden = lr / m"

    def __init__(self, *, base_width: Positive = 256, inner: SitelessFactory[Init] = Normal) -> None:
        self.base_width, self.inner = base_width, inner()
        if self.inner.base_width is not None:
            raise ValueError("inner has a base width of its own; choose an init without one, such as normal")

    def draw(self, weight: Tensor, role: Role, depth: int, generator: Generator) -> None:
        self.inner.draw(weight, role, depth, generator)

    def deviation(self, shape: Sequence[int], role: Role, depth: int) -> float:
        return self.inner.deviation(shape, role, depth)

    def width_factor(self, shape: Sequence[int], role: Role, depth: int, width: WidthMultipliers) -> float:
        scaled = width.fan_in ** (-0.5 if width.fan_out != 1 else -1.0)
        at_base = self.inner.deviation(width.base_shape(shape), role, depth)
        return scaled * at_base / self.inner.deviation(shape, role, depth)
