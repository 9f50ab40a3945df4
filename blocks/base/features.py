"""Ids that a model reads besides those of the tokens."""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from torch import Tensor


class Feature(NamedTuple):
    """Ids besides those of the tokens, which a block reads from ``context.features``.

    Attributes:
        size: number of different ids.
        per: whether each token has one (B, T), or each text (B,).
    """

    size: int
    per: Literal["token", "text"] = "token"


def check_features(given: Mapping[str, Tensor], known: Iterable[str]) -> None:
    """Refuse features that no block reads.

    Raises:
        ValueError: there is one.
    """
    names = sorted(known)
    if unknown := [name for name in given if name not in names]:
        readers = f"it reads {', '.join(names)}" if names else "it reads none"
        raise ValueError(f"no block of the model reads the feature {unknown[0]!r}; {readers}")
