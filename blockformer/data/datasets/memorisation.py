"""The memorisation task: facts that are the same in every row."""

import numpy as np

from blockformer.data.datasets.base import UNSCORED, Rows, Task
from blockformer.data.randomness import Draws, bits
from blockformer.errors import DataError
from registry import Positive, register

MOST_SYMBOLS = 4096
"""Of one kind; all facts are kept in memory, and these take 128 MiB."""
MOST_VALUES = 2**32


@register("memorisation")
class Memorisation(Task):
    """Recall facts that no row contains: a fixed random map from pairs of symbols to values has to be in the weights.

    A row is a sequence of random pairs of a first and a second symbol; the answer at the second is the pair's value. A
    fact has two symbols, since the embedding of one alone could hold its value. The map is drawn once and is the same
    for all seeds; rows of validation and test ask for the same facts in orders that do not occur in training.

    Args:
        symbols: First symbols, and as many second ones; there are symbols^2 facts.
        values: Token ids that may be a value.
    """

    paper = "Poli et al., 2024, Mechanistic Design and Scaling of Hybrid Architectures (MAD), arXiv:2403.17844"
    formula = "x = [a_1, b_1, a_2, b_2, ...]; y = [f(a_1, b_1), f(a_2, b_2), ...]"
    least_length = 8

    def __init__(self, *, symbols: Positive = 16, values: Positive = 16) -> None:
        if symbols > MOST_SYMBOLS:
            raise DataError(f"data.symbols {symbols}: makes {symbols**2:.3g} facts; give at most {MOST_SYMBOLS}")
        if values > MOST_VALUES:
            raise DataError(f"data.values {values}: give at most {MOST_VALUES}")
        self.symbols, self.values = symbols, values
        drawn = bits(0, "facts to memorise", symbols, values, count=symbols * symbols)
        self.map = (drawn % np.uint64(values)).astype(np.int64).reshape(symbols, symbols)
        self.vocab_size = 2 * symbols + values
        self.chance = float(np.unique(self.map, return_counts=True)[1].max() / self.map.size)

    def rows(self, draws: Draws, length: int, trained: int) -> Rows:
        facts = length // 2
        first, second = draws.integers(self.symbols, facts), draws.integers(self.symbols, facts)
        tokens = np.zeros((len(first), length), np.int64)
        targets = np.full_like(tokens, UNSCORED)
        tokens[:, 0 : 2 * facts : 2], tokens[:, 1 : 2 * facts : 2] = first, self.symbols + second
        targets[:, 1 : 2 * facts : 2] = 2 * self.symbols + self.map[first, second]
        return tokens, targets
