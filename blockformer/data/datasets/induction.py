"""The induction task: predict the token that followed an earlier occurrence."""

import numpy as np

from blockformer.data.datasets.base import UNSCORED, Rows, Task
from blockformer.data.randomness import Draws
from blockformer.errors import DataError
from registry import Positive, register


@register("induction")
class Induction(Task):
    """Predict what followed a token before: a row begins with distinct tokens in random order and repeats parts of it.

    Each repeated part is a token and the one that followed it, which is the answer. It takes two steps: a place has to
    know which token precedes it before another can find it by that token (induction heads). One layer of attention
    cannot.

    Args:
        context: Tokens in the first part of the row; they differ.
        symbols: Token ids.
        evaluation_length: Tokens in a row of validation and test; null: as in training.
    """

    paper = "Olsson et al., 2022, In-context Learning and Induction Heads, arXiv:2209.11895"
    formula = "x = [..., a, b, ..., a, b, ...]"

    def __init__(
        self, *, context: Positive = 16, symbols: Positive = 32, evaluation_length: Positive | None = None
    ) -> None:
        if not 2 <= context <= symbols:
            raise DataError(
                f"data.context {context} must be at least 2 and at most data.symbols {symbols}: the tokens differ"
            )
        self.context, self.symbols, self.evaluation_length = context, symbols, evaluation_length
        self.vocab_size = symbols
        self.least_length = context + 2
        self.chance = 1 / symbols

    def rows(self, draws: Draws, length: int, trained: int) -> Rows:
        parts = (length - self.context) // 2
        start = draws.permutations(self.symbols)[:, : self.context]
        chosen = draws.integers(self.context - 1, parts)
        asked, answers = (np.take_along_axis(start, chosen + step, axis=1) for step in (0, 1))
        rest = draws.integers(self.symbols, length - self.context)  # the last place, if their number is odd
        rest[:, 0 : 2 * parts : 2], rest[:, 1 : 2 * parts : 2] = asked, answers
        tokens = np.concatenate((start, rest), axis=1)
        targets = np.full_like(tokens, UNSCORED)
        targets[:, self.context : self.context + 2 * parts : 2] = answers
        return tokens, targets
