"""Evaluations: what is measured of a model in validations while it is trained, as registered components."""

from blockformer.training.evaluations.base import Better, Evaluation, Outcome, Subject
from blockformer.training.evaluations.generation import Generation
from blockformer.training.evaluations.harness import Harness
from blockformer.training.evaluations.samples import TextSamples
from blockformer.training.evaluations.settings import (
    FIGURE,
    Planned,
    better_of,
    check_intervals,
    evaluations_of,
    prepare,
)

__all__ = [
    "FIGURE",
    "Better",
    "Evaluation",
    "Generation",
    "Harness",
    "Outcome",
    "Planned",
    "Subject",
    "TextSamples",
    "better_of",
    "check_intervals",
    "evaluations_of",
    "prepare",
]
