"""Two explanations of the same text, step by step."""

from dataclasses import dataclass

import torch

from blockformer.explanation.explanation import Explanation
from blockformer.explanation.steps import Step


@dataclass(frozen=True)
class Comparison:
    """The steps of one explanation with those of another.

    Attributes:
        partners: for each step the number of the other's step of the same value; None: there is none.
        differences: for each step |a - b| / |a|, with the root of the sum of squares; None: there is no step of the
            same shape.
    """

    partners: list[int | None]
    differences: list[float | None]


def compared(first: Explanation, second: Explanation) -> Comparison:
    """Pair the steps of the same block, value and layer."""
    known = {step.key: number for number, step in enumerate(second.steps)}
    partners = [known.get(step.key) for step in first.steps]
    differences = [
        None if number is None else difference(step, second.steps[number])
        for step, number in zip(first.steps, partners, strict=True)
    ]
    return Comparison(partners, differences)


def difference(one: Step, other: Step) -> float | None:
    """The relative difference of the numbers that both keep; None: their shapes or places differ."""
    if one.value.shape != other.value.shape or one.value.index != other.value.index:
        return None
    a, b = one.value.data, other.value.data
    same = a == b  # -inf at hidden keys
    gap = torch.where(same, 0.0, a - b).nan_to_num(posinf=0.0, neginf=0.0)
    size = a.nan_to_num(posinf=0.0, neginf=0.0).norm()
    return float(gap.norm() / size.clamp(min=1e-30))
