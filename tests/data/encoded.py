"""Token sequences in memory, as those of prepared data on disk."""

from collections.abc import Sequence

import numpy as np

from blockformer.data.sequences import Sequences, Shards
from blockformer.data.tokenizer import Tokenizer


def encoded(
    texts: Sequence[str], tokenizer: Tokenizer, *, before: int | None = None, after: int | None = None
) -> Sequences:
    """Encode texts, each with a special token before or after it if given."""
    around = ([] if token is None else [token] for token in (before, after))
    head, tail = (np.array(ids, np.int64) for ids in around)
    parts = [np.concatenate((head, ids, tail)) for ids in tokenizer.encode_many(texts)]
    flat = np.concatenate(parts) if parts else np.zeros(0, np.int64)
    return Sequences(Shards([flat]), np.cumsum([0, *map(len, parts)], dtype=np.int64))
