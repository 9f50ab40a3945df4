"""What routers record: the scores of all experts, and the choice."""

from collections.abc import Mapping

from blocks.base import Intermediate

CHOICE: Mapping[str, Intermediate] = {
    "logits": Intermediate("How well each expert fits each token.", ("token", "expert"), "L = x W", ("input",)),
    "scores": Intermediate(
        "The logits turned into scores: the experts with the highest scores are chosen.",
        ("token", "expert"),
        "P = score(L)",
        ("logits",),
    ),
    "chosen": Intermediate(
        "The experts that are chosen for each token, the best first.",
        ("token", "choice"),
        "top_({top_k}) P",
        ("scores",),
    ),
    "weights": Intermediate(
        "The weights with which the outputs of the chosen experts are summed.", ("token", "choice"), "w_e", ("scores",)
    ),
}
"""Of a router of the experts of each token."""
