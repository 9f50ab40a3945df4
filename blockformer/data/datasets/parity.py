"""The parity task: whether the number of ones so far is odd."""

import numpy as np

from blockformer.data.datasets.base import UNSCORED, Rows, Task
from blockformer.data.randomness import Draws
from registry import Positive, register


@register("parity")
class Parity(Task):
    """Track a state of one bit: at each place, whether the number of ones so far is odd.

    The simplest task that needs state tracking. A linear recurrence solves it at every length only if its state
    transition can have negative eigenvalues. With `evaluation_length`, only the places that rows of training do not
    have are scored.

    Args:
        evaluation_length: Tokens in a row of validation and test; null: as in training.
    """

    paper = (
        "Grazzi et al., 2024, Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues, arXiv:2411.12537"
    )
    formula = "y_t = (x_1 + ... + x_t) mod 2"
    vocab_size = 2
    least_length = 8
    chance = 0.5

    def __init__(self, *, evaluation_length: Positive | None = None) -> None:
        self.evaluation_length = evaluation_length

    def rows(self, draws: Draws, length: int, trained: int) -> Rows:
        tokens = draws.integers(2, length)
        targets = np.cumsum(tokens, axis=1) % 2
        if length > trained:
            targets[:, :trained] = UNSCORED
        return tokens, targets
