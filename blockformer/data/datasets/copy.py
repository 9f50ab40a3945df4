"""Copying tasks: a whole string, or the symbols among blanks."""

import numpy as np

from blockformer.data.datasets.base import UNSCORED, Rows, Task
from blockformer.data.randomness import Draws
from blockformer.errors import DataError
from registry import Positive, register


@register("copy")
class Copy(Task):
    """Copy a string: blanks, random symbols, a mark, and then the same symbols again, which are the answers.

    The string of a row has a random length, up to half of the row, and blanks before it, so that no fixed distance
    leads from an answer to its source. With `evaluation_length`, all strings of validation and test have half of that
    length. A state of fixed size cannot hold a string that is long enough.

    Args:
        symbols: Different symbols.
        evaluation_length: Tokens in a row of validation and test; null: as in training.
    """

    paper = "Jelassi et al., 2024, Repeat After Me, arXiv:2402.01032"
    formula = 'x = ["blank", ..., s_1, ..., s_n, "mark", s_1, ..., s_n]'
    least_length = 16

    def __init__(self, *, symbols: Positive = 26, evaluation_length: Positive | None = None) -> None:
        if symbols < 2:
            raise DataError(f"data.symbols {symbols}: a string of one symbol needs no copying; give at least 2")
        self.symbols, self.evaluation_length = symbols, evaluation_length
        self.vocab_size = symbols + 2
        self.chance = 1 / symbols

    def rows(self, draws: Draws, length: int, trained: int) -> Rows:
        blank, mark, longest = self.symbols, self.symbols + 1, length // 2
        symbols = draws.integers(self.symbols, longest)
        size = 1 + draws.integers(longest, 1)  # (B, 1)
        if length > trained:
            size[:] = longest
        place = np.arange(length) - (length - 2 * size)  # of the string's first symbol: 0; of the mark: size
        source = np.take_along_axis(symbols, np.clip(place, 0, longest - 1), axis=1)
        again = np.take_along_axis(symbols, np.clip(place - size - 1, 0, longest - 1), axis=1)
        answers = np.take_along_axis(symbols, np.clip(place - size, 0, longest - 1), axis=1)
        tokens = np.select([place < 0, place < size, place == size], [blank, source, mark], again)
        return tokens, np.where(place >= size, answers, UNSCORED)


@register("selective_copy")
class SelectiveCopy(Task):
    """Copy the symbols among blanks: they stand at random places, and after a mark they are asked for in their order.

    A mixer has to choose by content what it keeps, since the distances differ from row to row.

    Args:
        items: Symbols in a row; they differ.
        symbols: Different symbols.
        evaluation_length: Tokens in a row of validation and test; null: as in training.
    """

    paper = "Gu and Dao, 2023, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, arXiv:2312.00752"
    formula = 'x = ["blank", s_1, "blank", "blank", s_2, ..., "mark", s_1, s_2, ...]'

    def __init__(
        self, *, items: Positive = 8, symbols: Positive = 16, evaluation_length: Positive | None = None
    ) -> None:
        if items > symbols:
            raise DataError(f"data.items {items} is more than data.symbols {symbols}: the symbols of a row differ")
        self.items, self.symbols, self.evaluation_length = items, symbols, evaluation_length
        self.vocab_size = symbols + 2
        self.least_length = 2 * items + 1
        self.chance = 1 / symbols

    def rows(self, draws: Draws, length: int, trained: int) -> Rows:
        blank, mark, places = self.symbols, self.symbols + 1, length - self.items
        items = draws.permutations(self.symbols)[:, : self.items]
        where = np.sort(draws.permutations(places)[:, : self.items], axis=1)
        tokens = np.full((len(items), length), blank)
        np.put_along_axis(tokens, where, items, axis=1)
        tokens[:, places], tokens[:, places + 1 :] = mark, items[:, :-1]
        targets = np.full_like(tokens, UNSCORED)
        targets[:, places:] = items
        return tokens, targets
