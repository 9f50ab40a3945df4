"""What residuals record: the sublayer's update of the stream."""

from collections.abc import Mapping

from blocks.base import Intermediate


def sum_of(formula: str) -> Mapping[str, Intermediate]:
    """The intermediates of a residual that adds an update to the stream by ``formula``."""
    return {
        "update": Intermediate(
            "What the sublayer adds to the stream, a vector for each token.", ("token", "width"), "Delta"
        ),
        "total": Intermediate(
            "The vectors that came in, plus the sublayer's update, before the norm.",
            ("token", "width"),
            "x + Delta",
            ("input", "update"),
        ),
        "output": Intermediate(
            "The stream after the sublayer: the vectors that came in, plus the sublayer's update.",
            ("token", "width"),
            formula,
            ("input", "update"),
        ),
    }
