"""Constrained types and markers for the parameters of blocks."""

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

Positive = Annotated[int, Gt(0)]
NonNegative = Annotated[int, Ge(0)]
Depth = Annotated[int, Ge(0), Le(10_000)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Probability = Annotated[float, Ge(0), Lt(1)]
Share = Annotated[float, Gt(0), Le(1)]


class Runtime:
    """Marks a parameter that says how a model is computed and not which model it is, so that it stays out of the hash.

    ``backend: Annotated[Literal["auto", "eager"], Runtime()] = "auto"``
    """
