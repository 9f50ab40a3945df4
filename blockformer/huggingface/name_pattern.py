"""Names of tensors with indices in them, such as ``model.layers.{layer}.self_attn.q_proj``."""

import re
from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

INDEX = re.compile(r"\{(\w+)\}")


class Match(NamedTuple):
    """A name that a pattern stands for: its indices, and what follows the pattern (``.weight``)."""

    indices: Mapping[str, int]
    rest: str


class Pattern:
    """A name with indices; it stands for the tensor of that name and for all below it.

    Args:
        text: the name, each index as ``{its name}``.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    @property
    def indices(self) -> set[str]:
        """The names of its indices."""
        return set(INDEX.findall(self.text))

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        parts, seen = INDEX.split(self.text), set[str]()
        regex = re.escape(parts[0])
        for name, literal in zip(parts[1::2], parts[2::2], strict=True):
            regex += (f"(?P={name})" if name in seen else rf"(?P<{name}>\d+)") + re.escape(literal)
            seen.add(name)
        return re.compile(regex + r"(?P<_rest>(?:\..+)?)")

    def match(self, name: str) -> Match | None:
        """How this pattern stands for ``name``; None if it does not."""
        found = self._regex.fullmatch(name)
        if found is None:
            return None
        groups = found.groupdict()
        rest = groups.pop("_rest")
        return Match({index: int(value) for index, value in groups.items()}, rest)

    def name(self, indices: Mapping[str, int], rest: str = "") -> str:
        """The name with these indices."""
        return INDEX.sub(lambda found: str(indices[found[1]]), self.text) + rest

    def __repr__(self) -> str:
        return self.text
