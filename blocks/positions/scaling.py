"""Scaling of rotary positions to sequences longer than in training."""

import math

import torch
from torch import Tensor

from blocks.base import Context, RotaryScaling
from registry import Positive, PositiveFloat, register


@register("linear")
class LinearScaling(RotaryScaling):
    """Divide every position by ``factor`` (position interpolation).

    Args:
        factor: target length divided by the trained length.
    """

    paper = "Chen et al., 2023, arXiv:2306.15595"
    formula = "f′_i = f_i / factor"

    def __init__(self, width: int, theta: float, *, factor: PositiveFloat = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def scaled_frequencies(self, frequencies: Tensor, context: Context) -> Tensor:
        return frequencies / self.factor


@register("dynamic")
class DynamicScaling(RotaryScaling):
    """Increase the base with the sequence length beyond ``trained_length`` (dynamic NTK).

    Beyond that length each token changes the angles of all tokens, so that decoding recomputes the whole sequence.

    Args:
        factor: growth of the base with the length.
        trained_length: longest sequence in training, in tokens.
    """

    paper = "Peng et al., 2023, arXiv:2309.00071, section 3.3"
    formula = "theta′ = theta (factor * T / trained_length - factor + 1)^(K/(K-2)); T = max(length, trained_length)"
    depends_on_length = True

    def __init__(
        self, width: int, theta: float, *, factor: PositiveFloat = 1.0, trained_length: Positive = 2048
    ) -> None:
        super().__init__()
        if width < 4:
            raise ValueError(f"dynamic scaling needs at least 4 rotated channels, but there are {width}")
        self.width, self.theta, self.factor, self.trained_length = width, theta, factor, trained_length

    def scaled_frequencies(self, frequencies: Tensor, context: Context) -> Tensor:
        lengths = context.lengths()[..., None].clamp(min=self.trained_length)
        growth = self.factor * lengths / self.trained_length - (self.factor - 1)
        exponents = torch.arange(0, self.width, 2, device=frequencies.device, dtype=torch.float32) / self.width
        return 1.0 / (self.theta * growth ** (self.width / (self.width - 2))) ** exponents

    def invalidates_cache(self, before: int, after: int) -> bool:
        return before < after and after > self.trained_length and self.factor > 0


@register("llama3")
class Llama3Scaling(RotaryScaling):
    """Divide the frequencies of slow channel pairs by ``factor``, keep fast ones, and interpolate between.

    Args:
        factor: target length divided by the trained length.
        low: pairs with fewer rotations than this within ``trained_length`` are slow.
        high: pairs with more rotations than this are fast.
        trained_length: longest sequence in training, in tokens.
    """

    paper = "Grattafiori et al., 2024, arXiv:2407.21783"
    formula = (
        's_i = (trained_length * f_i / (2 pi) - low) / (high - low) "within" [0, 1]; '
        "f′_i = (1 - s_i) f_i / factor + s_i f_i"
    )

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

    def scaled_frequencies(self, frequencies: Tensor, context: Context) -> Tensor:
        turns = self.trained_length * frequencies / (2 * math.pi)
        kept = ((turns - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
        return (1 - kept) * frequencies / self.factor + kept * frequencies


@register("yarn")
class YarnScaling(RotaryScaling):
    """Divide slow pairs by ``factor``, keep fast ones, with a ramp over the channels between, and scale the scores.

    Args:
        factor: target length divided by the trained length.
        fast: pairs with more rotations than this within ``trained_length`` are kept.
        slow: pairs with fewer rotations than this are divided.
        trained_length: longest sequence in training, in tokens.
        whole: round the ends of the ramp to whole channels.
        magnitude: factor on rotated queries and keys; null: 0.1 * ln(factor) + 1.
    """

    paper = "Peng et al., 2023, arXiv:2309.00071"
    formula = (
        'r_i = (i - first) / (last - first) "within" [0, 1]; '
        "f′_i = r_i f_i / factor + (1 - r_i) f_i; "
        "q′ = magnitude * q, k′ = magnitude * k"
    )

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
            raise ValueError(f"yarn scaling needs theta > 1, but theta={theta}")
        self.factor = factor
        default = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
        self.factor_on_heads = default if magnitude is None else magnitude

        def channel(turns: float) -> float:
            return width * math.log(trained_length / (turns * 2 * math.pi)) / (2 * math.log(theta))

        first, last = channel(fast), channel(slow)
        if whole:
            first, last = math.floor(first), math.ceil(last)
        self.first, self.last = max(first, 0), min(last, width - 1)

    def scaled_frequencies(self, frequencies: Tensor, context: Context) -> Tensor:
        pairs = torch.arange(len(frequencies), device=frequencies.device, dtype=torch.float32)
        span = self.last - self.first or 0.001
        divided = ((pairs - self.first) / span).clamp(0.0, 1.0)
        return divided * frequencies / self.factor + (1 - divided) * frequencies

    def magnitude(self) -> float:
        return self.factor_on_heads


@register("longrope")
class LongRopeScaling(RotaryScaling):
    """Divide each pair's frequency by its own factor, from one list up to ``trained_length`` and another beyond.

    All angles change where a sequence grows beyond ``trained_length``, so that decoding then recomputes it as a whole.

    Args:
        short: factors up to ``trained_length``, one per channel pair; null: all 1.
        long: factors beyond ``trained_length``, one per channel pair; null: all 1.
        trained_length: longest sequence in training, in tokens.
        factor: target length divided by the trained length.
        magnitude: factor on rotated queries and keys; null: sqrt(1 + ln(factor) / ln(trained_length)).
    """

    paper = "Ding et al., 2024, arXiv:2402.13753"
    formula = 'f′_i = f_i / short_i "for" T <= trained_length; f′_i = f_i / long_i "for" T > trained_length'
    depends_on_length = True

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
                raise ValueError(
                    f"{name} has {len(factors)} factors, but there are {width // 2} channel pairs; give one per pair"
                )
        self.short, self.long, self.trained_length = short, long, trained_length
        if magnitude is None and factor > 1 and trained_length < 2:
            raise ValueError("magnitude=null divides by ln(trained_length), but trained_length=1; set one of them")
        default = math.sqrt(1 + math.log(factor) / math.log(trained_length)) if factor > 1 else 1.0
        self.factor_on_heads = default if magnitude is None else magnitude

    def scaled_frequencies(self, frequencies: Tensor, context: Context) -> Tensor:
        if self.short is None and self.long is None:
            return frequencies
        ones = (1.0,) * len(frequencies)
        short, long = (torch.tensor(f or ones, device=frequencies.device) for f in (self.short, self.long))
        return frequencies / torch.where(context.lengths()[..., None] > self.trained_length, long, short)

    def invalidates_cache(self, before: int, after: int) -> bool:
        return self.short != self.long and before <= self.trained_length < after

    def magnitude(self) -> float:
        return self.factor_on_heads
