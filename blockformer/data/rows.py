"""The rows of a dataset, by its kind."""

from collections.abc import Mapping
from typing import cast

from blockformer.data.datasets.base import Dataset, Task, TextDataset
from blockformer.data.datasets.mixture import Mixture
from blockformer.data.datasets.token_files import TokenFiles
from blockformer.data.mixed_rows import MixedRows
from blockformer.data.samples import SampleMaker
from blockformer.data.task_rows import TaskRows
from blockformer.data.text_rows import TextRows
from blockformer.data.token_rows import TokenRows
from blockformer.data.tokenizers.base import TokenizerComponent
from registry import entry_of

Rows = TaskRows | TokenRows | TextRows | MixedRows


def make_rows(
    dataset: Dataset,
    tokenizer: TokenizerComponent | None,
    length: int,
    *,
    shares: Mapping[str, float],
    objective: SampleMaker | None,
    seed: int,
) -> Rows:
    """The rows of a dataset.

    Args:
        dataset: what they are from.
        tokenizer: how text becomes token ids; None: the dataset has ids of its own.
        length: tokens in a row.
        shares: the share of text or token files to hold out for "validation" and for "test".
        objective: what the rows are for; None: not known yet.
        seed: decides the rows of a task, and what is drawn at random in the training rows of text.

    Raises:
        DataError: a setting does not fit the dataset.
    """
    if isinstance(dataset, Task):
        return TaskRows(dataset, entry_of(type(dataset)).name, length, seed)
    if isinstance(dataset, TokenFiles):
        return TokenRows(dataset, shares, length, objective, seed)
    assert tokenizer is not None

    def of_text(text: TextDataset) -> TextRows:
        return TextRows(text, shares, tokenizer, length, objective=objective, seed=seed)

    if isinstance(dataset, Mixture):
        parts = {name: of_text(part) for name, part in dataset.parts.items()}
        return MixedRows(dataset, parts, tokenizer)
    return of_text(cast("TextDataset", dataset))
