"""What residuals record: the sublayer's update of the stream."""

from collections.abc import Mapping

from blocks.base import Intermediate


def sum_of(formula: str, total: str = "x + f(x)") -> Mapping[str, Intermediate]:
    """The intermediates of a residual that adds an update to the stream by ``formula``; ``total``: the sum alone."""
    return {
        "update": Intermediate(
            "What the sublayer adds to the stream, a vector for each token.", ("token", "width"), "Delta"
        ),
        "total": Intermediate(
            "The vectors x that came in, plus the update that the sublayer f computed, before the norm.",
            ("token", "width"),
            total,
            ("input", "update"),
        ),
        "output": Intermediate(
            "The stream after the sublayer f: the vectors x that came in, plus the update that f computed.",
            ("token", "width"),
            formula,
            ("input", "update"),
        ),
    }
