"""Multi-query associative recall."""

import numpy as np

from blockformer.data.datasets.base import UNSCORED, Rows, Task
from blockformer.data.randomness import Draws
from blockformer.errors import DataError
from registry import Positive, PositiveFloat, register

MOST_POWER = 10


@register("mqar")
class MQAR(Task):
    """Recall the values of several keys: a row gives pairs of key and value, then asks for each key once.

    The pairs come first; the gap from there to a key's second occurrence follows a power law, as repetitions in
    text do, and the places between are filled with random tokens. A mixer has to keep all pairs in its state.

    Args:
        pairs: Keys in a row; each is asked for once.
        key_tokens: Token ids that may be a key; those of a row differ.
        value_tokens: Token ids that may be a value.
        power: Exponent of the power law; the smaller, the more of the questions follow soon.
        evaluation_length: Tokens in a row of validation and test; null: as in training.
    """

    paper = "Arora et al., 2023, Zoology: Measuring and Improving Recall in Efficient Language Models, arXiv:2312.04927"
    formula = "x = [k_1, v_1, ..., k_n, v_n, ..., k_i, v_i, ...]"

    def __init__(
        self,
        *,
        pairs: Positive = 8,
        key_tokens: Positive = 64,
        value_tokens: Positive = 64,
        power: PositiveFloat = 0.01,
        evaluation_length: Positive | None = None,
    ) -> None:
        if pairs > key_tokens:
            raise DataError(f"data.pairs {pairs} is more than data.key_tokens {key_tokens}: the keys of a row differ")
        if power > MOST_POWER:
            raise DataError(
                f"data.power {power:g}: give at most {MOST_POWER}; the larger it is, the later the questions follow"
            )
        self.pairs, self.keys, self.values, self.power = pairs, key_tokens, value_tokens, power
        self.evaluation_length = evaluation_length
        self.vocab_size = key_tokens + value_tokens
        self.least_length = 4 * pairs
        self.chance = 1 / value_tokens

    def rows(self, draws: Draws, length: int, trained: int) -> Rows:
        keys = draws.permutations(self.keys)[:, : self.pairs]
        values = self.keys + draws.integers(self.values, self.pairs)
        tokens = draws.integers(self.vocab_size, length)
        tokens[:, 0 : 2 * self.pairs : 2], tokens[:, 1 : 2 * self.pairs : 2] = keys, values
        asked = 2 * self.pairs + 2 * self._gaps(draws, (length - 2 * self.pairs) // 2)
        np.put_along_axis(tokens, asked, keys, axis=1)
        targets = np.full_like(tokens, UNSCORED)
        np.put_along_axis(targets, asked, values, axis=1)
        return tokens, targets

    def _gaps(self, draws: Draws, places: int) -> np.ndarray:
        """(B, pairs) different places, drawn one after another with probability proportional to place^(power - 1).

        The smallest exponentially distributed waiting times, each with the place's probability as its rate, are such a
        draw without replacement (Efraimidis and Spirakis 2006).
        """
        rates = np.arange(1, places + 1) ** (self.power - 1)
        waiting = -np.log1p(-draws.uniform(places)) / rates
        return np.argsort(waiting, axis=1, kind="stable")[:, : self.pairs]
