"""What recurrent mixers record: what is written to the state, how it decays, and what is read from it.

Where a batch has padding, the values are in the order of the recurrence, with all padding last.
"""

from collections.abc import Mapping

from blocks.base import Intermediate

HEAD = ("head", "token", "channel")

RECURRENT: Mapping[str, Intermediate] = {
    "q": Intermediate("The query of each token: what it reads from the state.", HEAD, "q_t", ("input",)),
    "k": Intermediate("The key of each token: where it writes to the state.", HEAD, "k_t", ("input",)),
    "v": Intermediate("The value of each token: what it writes to the state.", HEAD, "v_t", ("input",)),
    "strength": Intermediate("How strongly each token writes to the state.", ("head", "token"), "b_t", ("input",)),
    "decay": Intermediate(
        "The share of the state that is kept at each token; the rest is forgotten.",
        ("head", "token"),
        "a_t",
        ("input",),
    ),
    "channel_decay": Intermediate(
        "The share of each row of the state that is kept at each token; the rest is forgotten.", HEAD, "a_t", ("input",)
    ),
    "read": Intermediate("What each token reads from the state.", HEAD, "y_t = M_t^T q_t", ("q", "k", "v")),
}
"""Of mixers with a matrix as state for each head."""


def state_by(formula: str) -> Intermediate:
    """The state of each head, a matrix from keys to values, as it is cached after a token."""
    return Intermediate(
        "The state after a token: all that is kept of the text so far, a matrix for each head.",
        ("head", "state", "channel"),
        formula,
    )


CHANNELS: Mapping[str, Intermediate] = {
    "written": Intermediate("What each token writes to the state of each channel.", ("token", "channel"), "w_t"),
    "convolved": Intermediate(
        "The channels after a short convolution over the last few tokens.", ("token", "channel"), "v_t", ("input",)
    ),
    "steps": Intermediate("How far each token moves the state of each channel.", ("token", "channel"), "d_t"),
    "write": Intermediate("How each token's input is spread over the states of a channel.", ("token", "state"), "k_t"),
    "read_by": Intermediate("How each token reads the states of a channel.", ("token", "state"), "q_t"),
    "decays": Intermediate(
        "The share of each channel's state that is kept at each token; the rest is forgotten.",
        ("token", "channel"),
        "a_t",
    ),
    "states": Intermediate(
        "The state of each channel after each token.",
        ("token", "channel"),
        "h_t = a_t h_(t-1) + w_t",
        ("decays", "written"),
    ),
    "read": Intermediate("What each token reads from the states of each channel.", ("token", "channel"), "h_t q_t"),
}
"""Of mixers whose channels have states of their own."""

CHANNEL_STATES = Intermediate(
    "The state after a token: several numbers for each channel.",
    ("channel", "state"),
    "h_t = exp(-d_t exp(rate)) h_(t-1) + d_t v_t k_t",
)
