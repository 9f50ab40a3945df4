"""Data for the published model of rxnmapper: esters from an acid and an alcohol, in the ids of its vocabulary."""

import numpy as np

from blockformer.data.datasets.base import UNSCORED, Rows, Task
from blockformer.data.randomness import Draws
from blockformer.training.objectives.masked_lm import MaskedLM
from registry import register

IDS = {"[CLS]": 12, "[SEP]": 13, "[MASK]": 14, "C": 16, "(": 17, ")": 18, "O": 19, "=": 22, "N": 23, ".": 24, ">>": 29}
"""Lines of the model's `vocab.txt`, from 0."""
ATOMS = ("C", "N", "O")
FIXED = 18  # symbols of a row beside the two chains, which occur twice


@register("masked_answers")
class MaskedAnswers(MaskedLM):
    """Prediction of the tokens that the rows themselves have masked."""

    forms = ("answers",)

    def __init__(self) -> None:
        super().__init__()


@register("esters")
class Esters(Task):
    """R-C(=O)O . O-R' >> R-C(=O)O-R' with random chains R and R', where the whole product is masked."""

    vocab_size = 591
    least_length = FIXED + 6
    chance = 1 / len(ATOMS)

    def __init__(self) -> None:
        super().__init__()

    def rows(self, draws: Draws, length: int, trained: int) -> Rows:
        count = (length - FIXED) // 2  # atoms of both chains
        atoms = np.array([IDS[atom] for atom in ATOMS])[draws.integers(len(ATOMS), count)]
        cuts = 1 + draws.integers(count - 1, 1)[:, 0]
        tokens = np.full((len(atoms), length), IDS["[SEP]"])
        targets = np.full_like(tokens, UNSCORED)
        group = [IDS[symbol] for symbol in "C(=O)O"]
        for row, (chain, cut) in enumerate(zip(atoms, cuts, strict=True)):
            acid, alcohol = [*chain[:cut], *group], [IDS["O"], *chain[cut:]]
            given, product = [IDS["[CLS]"], *acid, IDS["."], *alcohol, IDS[">>"]], [*acid, *chain[cut:]]
            end = len(given) + len(product)
            tokens[row, :end] = [*given, *[IDS["[MASK]"]] * len(product)]
            targets[row, len(given) : end] = product
        return tokens, targets
