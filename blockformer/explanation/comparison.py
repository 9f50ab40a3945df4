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
        differences: for each step |a - b| / |a|, with the root of the sum of squares, where scores of hidden
            keys count as 0; None: there is no step of the same shape that keeps some of the same numbers.
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
    """The relative difference of the numbers that both keep; None: their shapes differ, or they keep none in common."""
    if one.value.shape != other.value.shape:
        return None
    a, b = one.value.data, other.value.data
    for axis, (ours, theirs) in enumerate(zip(one.value.index, other.value.index, strict=True)):
        if ours != theirs:
            both = [place for place in ours if place in theirs]
            if not both:
                return None
            a = a.index_select(axis, torch.tensor([ours.index(place) for place in both]))
            b = b.index_select(axis, torch.tensor([theirs.index(place) for place in both]))
    a, b = (part.where(part.isfinite(), 0.0) for part in (a, b))  # -inf at hidden keys
    return float((a - b).norm() / a.norm().clamp(min=1e-30))
