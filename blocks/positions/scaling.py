"""Rotary positions for longer texts than a model was trained on."""

import math

import torch
from torch import Tensor

from blocks.base import Context, RotaryScaling
from registry import Positive, PositiveFloat, register


@register("linear")
class LinearScaling(RotaryScaling):
    """Every position divided by ``factor`` (position interpolation).

    Args:
        factor: how many times longer texts may become.
    """

    paper = "Chen et al., 2023, arXiv:2306.15595"

    def __init__(self, width: int, theta: float, *, factor: PositiveFloat = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def stretched(self, frequencies: Tensor, context: Context) -> Tensor:
        return frequencies / self.factor


@register("dynamic")
class DynamicScaling(RotaryScaling):
    """A base that grows with the text, once it is longer than in training (dynamic NTK).

    From there on each token changes the angles of all, so that a cache is of no use: decoding reads the text anew.

    Args:
        factor: how fast the base grows.
        trained_length: longest text in training, in tokens.
    """

    paper = "Peng et al., 2023, arXiv:2309.00071, section 3.3"
    grows = True

    def __init__(
        self, width: int, theta: float, *, factor: PositiveFloat = 1.0, trained_length: Positive = 2048
    ) -> None:
        super().__init__()
        if width < 4:
            raise ValueError(f"a base that grows needs two channel pairs to turn, but {width} channels are turned")
        self.width, self.theta, self.factor, self.trained_length = width, theta, factor, trained_length

    def stretched(self, frequencies: Tensor, context: Context) -> Tensor:
        lengths = context.lengths()[..., None].clamp(min=self.trained_length)
        growth = self.factor * lengths / self.trained_length - (self.factor - 1)
        exponents = torch.arange(0, self.width, 2, device=frequencies.device, dtype=torch.float32) / self.width
        return 1.0 / (self.theta * growth ** (self.width / (self.width - 2))) ** exponents

    def changes(self, before: int, after: int) -> bool:
        return before < after and after > self.trained_length and self.factor > 0


@register("llama3")
class Llama3Scaling(RotaryScaling):
    """Slow channel pairs are divided by ``factor``, fast ones kept, those between are blended.

    Args:
        factor: how many times longer texts may become.
        low: pairs that turn fewer times than this within ``trained_length`` are slow.
        high: pairs that turn more times than this are fast.
        trained_length: longest text in training, in tokens.
    """

    paper = "Grattafiori et al., 2024, arXiv:2407.21783"

    def __init__(
        self,
        width: int,
        theta: float,
        *,
        factor: PositiveFloat = 8.0,
        low: PositiveFloat = 1.0,
        high: PositiveFloat = 4.0,
        trained_length: Positive = 8192,
    ) -> None:
        super().__init__()
        if high <= low:
            raise ValueError(f"high={high} must be greater than low={low}")
        self.factor, self.low, self.high, self.trained_length = factor, low, high, trained_length

    def stretched(self, frequencies: Tensor, context: Context) -> Tensor:
        turns = self.trained_length * frequencies / (2 * math.pi)
        kept = ((turns - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
        return (1 - kept) * frequencies / self.factor + kept * frequencies


@register("yarn")
class YarnScaling(RotaryScaling):
    """Slow pairs divided by ``factor``, fast ones kept, a ramp over channels between; scores sharpened by a magnitude.

    Args:
        factor: how many times longer texts may become.
        fast: pairs that turn more times than this within ``trained_length`` are kept.
        slow: pairs that turn fewer times than this are divided.
        trained_length: longest text in training, in tokens.
        whole: the ramp begins and ends at whole channels.
        magnitude: factor on the turned queries and keys; null: 0.1 * ln(factor) + 1.
    """

    paper = "Peng et al., 2023, arXiv:2309.00071"

    def __init__(
        self,
        width: int,
        theta: float,
        *,
        factor: PositiveFloat = 4.0,
        fast: PositiveFloat = 32.0,
        slow: PositiveFloat = 1.0,
        trained_length: Positive = 4096,
        whole: bool = True,
        magnitude: PositiveFloat | None = None,
    ) -> None:
        super().__init__()
        if theta <= 1:
            raise ValueError(f"a ramp from fast to slow pairs needs slower ones, but theta={theta} is not above 1")
        self.factor = factor
        default = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
        self.factor_on_heads = default if magnitude is None else magnitude

        def channel(turns: float) -> float:
            return width * math.log(trained_length / (turns * 2 * math.pi)) / (2 * math.log(theta))

        first, last = channel(fast), channel(slow)
        if whole:
            first, last = math.floor(first), math.ceil(last)
        self.first, self.last = max(first, 0), min(last, width - 1)

    def stretched(self, frequencies: Tensor, context: Context) -> Tensor:
        pairs = torch.arange(len(frequencies), device=frequencies.device, dtype=torch.float32)
        span = self.last - self.first or 0.001
        divided = ((pairs - self.first) / span).clamp(0.0, 1.0)
        return divided * frequencies / self.factor + (1 - divided) * frequencies

    def magnitude(self) -> float:
        return self.factor_on_heads


@register("longrope")
class LongRopeScaling(RotaryScaling):
    """Every pair divided by a factor of its own: one list for texts up to ``trained_length``, another for longer ones.

    A text that grows beyond is turned otherwise from its first token on, so that decoding then reads it anew.

    Args:
        short: factors for short texts, one a channel pair; null: all 1.
        long: factors for long texts, one a channel pair; null: all 1.
        trained_length: longest text in training, in tokens.
        factor: how many times longer texts may become.
        magnitude: factor on the turned queries and keys; null: sqrt(1 + ln(factor) / ln(trained_length)).
    """

    paper = "Ding et al., 2024, arXiv:2402.13753"
    grows = True

    def __init__(
        self,
        width: int,
        theta: float,
        *,
        short: tuple[float, ...] | None = None,
        long: tuple[float, ...] | None = None,
        trained_length: Positive = 4096,
        factor: PositiveFloat = 1.0,
        magnitude: PositiveFloat | None = None,
    ) -> None:
        super().__init__()
        for name, factors in (("short", short), ("long", long)):
            if factors is not None and len(factors) != width // 2:
                raise ValueError(f"{name} has {len(factors)} factors, but {width // 2} channel pairs are turned")
        self.short, self.long, self.trained_length = short, long, trained_length
        if magnitude is None and factor > 1 and trained_length < 2:
            raise ValueError("the logarithm of trained_length=1 is 0; say a greater one, or the magnitude")
        default = math.sqrt(1 + math.log(factor) / math.log(trained_length)) if factor > 1 else 1.0
        self.factor_on_heads = default if magnitude is None else magnitude

    def stretched(self, frequencies: Tensor, context: Context) -> Tensor:
        if self.short is None and self.long is None:
            return frequencies
        ones = (1.0,) * len(frequencies)
        short, long = (torch.tensor(f or ones, device=frequencies.device) for f in (self.short, self.long))
        return frequencies / torch.where(context.lengths()[..., None] > self.trained_length, long, short)

    def changes(self, before: int, after: int) -> bool:
        return self.short != self.long and before <= self.trained_length < after

    def magnitude(self) -> float:
        return self.factor_on_heads
