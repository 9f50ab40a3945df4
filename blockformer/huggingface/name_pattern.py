"""Names of tensors with indices, such as ``model.layers.{layer}.mlp.up_proj``."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from blockformer.huggingface.errors import HuggingFaceError
from blockformer.huggingface.template import TemplateContext
from registry import Mark
from registry.errors import quoted

PLACEHOLDER = re.compile(r"\{(\w+)\}")


class NameMatch(NamedTuple):
    """The values of the indices in a name, and the part after the pattern (such as ``.weight``)."""

    indices: Mapping[str, int]
    suffix: str


class NamePattern:
    """The name of a tensor with indices, such as ``model.layers.{layer}.self_attn.q_proj``.

    It matches the tensor of this name and all below it, such as its ``.weight`` and its ``.bias``.

    Args:
        text: the name, with each index as ``{name}``.
        words: of indices that stand for words, the words in order; other indices stand for numbers.
    """

    def __init__(self, text: str, words: Mapping[str, Sequence[str]] | None = None) -> None:
        self.text = text
        self._words = words or {}

    @property
    def indices(self) -> set[str]:
        """The names of its indices."""
        return set(PLACEHOLDER.findall(self.text))

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        parts, seen = PLACEHOLDER.split(self.text), set[str]()
        regex = re.escape(parts[0])
        for name, literal in zip(parts[1::2], parts[2::2], strict=True):
            values = "|".join(map(re.escape, self._words.get(name, ()))) or "[0-9]{1,9}"
            regex += (f"(?P={name})" if name in seen else f"(?P<{name}>{values})") + re.escape(literal)
            seen.add(name)
        return re.compile(regex + r"(?P<_suffix>(?:\..+)?)")

    def match(self, name: str) -> NameMatch | None:
        """The indices and the suffix of a name; None if it does not match."""
        found = self._regex.fullmatch(name)
        if found is None:
            return None
        groups = found.groupdict()
        suffix = groups.pop("_suffix")
        return NameMatch({index: self._number(index, text) for index, text in groups.items()}, suffix)

    def _number(self, index: str, text: str) -> int:
        return list(self._words[index]).index(text) if index in self._words else int(text)

    def value(self, index: str, number: int) -> str:
        """How a value of an index is written in a name."""
        return self._words[index][number] if index in self._words else str(number)

    def name(self, indices: Mapping[str, int], suffix: str = "") -> str:
        """The name with these indices."""
        return PLACEHOLDER.sub(lambda found: self.value(found[1], indices[found[1]]), self.text) + suffix

    def __repr__(self) -> str:
        return self.text


def substituted(context: TemplateContext, text: str, mark: Mark) -> str:
    """A tensor's name with names from ``let`` replaced by their values; what remains in braces is an index.

    Raises:
        HuggingFaceError: a value is neither text nor a number.
    """
    for name in PLACEHOLDER.findall(text):
        if name in context.family.templates:
            value = context.evaluate(name, f"tensors.{text}", mark)
            if not isinstance(value, str | int):
                raise HuggingFaceError.at(mark, f"{{{name}}} must be text or a number, not {quoted(value)}", text)
            text = text.replace(f"{{{name}}}", str(value))
    return text
