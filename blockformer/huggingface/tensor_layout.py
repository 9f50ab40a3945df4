"""Which stored tensor holds which parameters, and in what layout: the ``tensors`` and ``tied`` sections of a family."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from blockformer.huggingface.errors import HuggingFaceError
from blockformer.huggingface.family import as_list
from blockformer.huggingface.template import OMITTED, TemplateContext
from registry import Mark
from registry.errors import nearest, quoted
from registry.strict_yaml import Map

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_RULE_KEYS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "to": ((str, list), "a parameter or a list of parameters"),
    "transpose": (bool, "true or false"),
    "groups": (int, "a whole number"),
    "axis": (int, "a whole number"),
    "reshape": (list, "a list of sizes"),
    "otherwise": ((int, float), "a number"),
    "where": (str, "a condition"),
    "parts": (dict, "a mapping of names to sizes"),
}


class NameMatch(NamedTuple):
    """The values of the indices in a name, and the part after the pattern (such as ``.weight``)."""

    indices: Mapping[str, int]
    suffix: str


class NamePattern:
    """The name of a tensor with indices, such as ``model.layers.{layer}.self_attn.q_proj``.

    It matches the tensor of this name and all below it, such as its ``.weight`` and its ``.bias``.

    Args:
        text: the name, with each index as ``{name}``.
        parts: the values of the index that stands for words; None: all stand for numbers.
    """

    def __init__(self, text: str, parts: Mapping[str, Sequence[str]] | None = None) -> None:
        self.text = text
        self._parts = parts or {}

    @property
    def indices(self) -> set[str]:
        """The names of its indices."""
        return set(_PLACEHOLDER.findall(self.text))

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        parts, seen = _PLACEHOLDER.split(self.text), set[str]()
        regex = re.escape(parts[0])
        for name, literal in zip(parts[1::2], parts[2::2], strict=True):
            values = "|".join(map(re.escape, self._parts.get(name, ()))) or "[0-9]{1,9}"
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
        words = {name: [*values] for name, values in self._parts.items()}
        indices = {name: words[name].index(text) if name in words else int(text) for name, text in groups.items()}
        return NameMatch(indices, suffix)

    def name(self, indices: Mapping[str, int], suffix: str = "") -> str:
        """The name with these indices."""
        texts = {name: str(index) for name, index in indices.items()}
        texts |= {name: values[indices[name]] for name, values in self._parts.items()}
        return _PLACEHOLDER.sub(lambda found: texts[found[1]], self.text) + suffix

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Layout:
    """How one stored tensor holds one or several parameters.

    Attributes:
        transpose: matrices are stored as (in, out).
        groups: number of groups along the split axis, each with an equal share of every parameter; 1: the parameters
            follow one another.
        axis: the axis that is split.
        reshape: the stored shape, where it differs from the parameter's (-1: the remaining size); None: the same.
    """

    transpose: bool = False
    groups: int = 1
    axis: int = 0
    reshape: tuple[int, ...] | None = None

    def split(self, stored: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """The parameters in a stored tensor.

        Raises:
            ValueError: the sizes do not match.
        """
        tensor = stored.mT if self.transpose and stored.ndim > 1 else stored
        if len(shapes) == 1:
            return [self._reshaped(tensor, shapes[0])]
        sizes = [shape[self.axis] for shape in shapes]
        if tensor.shape[self.axis] != sum(sizes):
            wanted = " + ".join(map(str, sizes))
            raise ValueError(f"has size {tensor.shape[self.axis]} on axis {self.axis}; expected {wanted}")
        if uneven := [size for size in sizes if size % self.groups]:
            raise ValueError(f"size {uneven[0]} is not divisible by groups={self.groups}")
        parts = torch.split(self._grouped(tensor), [size // self.groups for size in sizes], dim=self.axis + 1)
        flat = [torch.flatten(part, self.axis, self.axis + 1) for part in parts]
        return [self._reshaped(part, shape) for part, shape in zip(flat, shapes, strict=True)]

    def join(self, parameters: Sequence[Tensor]) -> Tensor:
        """The stored tensor that holds these parameters; the inverse of :meth:`split`."""
        tensor = parameters[0]
        if len(parameters) > 1:
            grouped = [self._grouped(parameter) for parameter in parameters]
            tensor = torch.flatten(torch.cat(grouped, dim=self.axis + 1), self.axis, self.axis + 1)
        if self.reshape is not None:
            tensor = tensor.reshape(self.reshape)
        return tensor.mT if self.transpose and tensor.ndim > 1 else tensor

    def _grouped(self, tensor: Tensor) -> Tensor:
        before, after = tensor.shape[: self.axis], tensor.shape[self.axis + 1 :]
        return tensor.reshape(*before, self.groups, -1, *after)

    def _reshaped(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        if self.reshape is not None and tensor.numel() == prod(shape):
            tensor = tensor.reshape(tuple(shape))
        if tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"has shape {tuple(tensor.shape)}; expected {tuple(shape)}")
        return tensor


@dataclass(frozen=True)
class TensorRule:
    """Maps a stored tensor, or one for each value of an index (such as an expert's), to parameters.

    Attributes:
        source: the name of the stored tensor.
        targets: the parameters that it holds, in order.
        layout: how it holds them.
        otherwise: the value of all elements of the parameters if the tensor is missing; None: it is required.
        mark: file and line of the rule.
        where: whether the rule applies at some indices; None: at all.
        sizes: lengths of the parts that several stored tensors hold of the parameter, which is joined; None: each
            value of an index is a tensor of its own.
    """

    source: NamePattern
    targets: tuple[NamePattern, ...]
    layout: Layout
    otherwise: float | None
    mark: Mark
    where: Callable[[Mapping[str, int]], bool] | None = None
    sizes: tuple[int, ...] | None = None

    def applies(self, indices: Mapping[str, int]) -> bool:
        """Whether the rule is for a tensor or parameter with these indices."""
        return self.where is None or self.where(indices)

    @property
    def stacked_index(self) -> str | None:
        """The index over which stored tensors are stacked into one parameter."""
        return next(iter(self.source.indices - self.targets[0].indices), None)


@dataclass(frozen=True)
class TensorNames:
    """Names of tensors in a family file besides its rules.

    Attributes:
        tied: tensors that repeat another tensor, and the name of that.
        unused: patterns of tensors that the model does not use.
        leaves: alternative spellings of the last part of a name.
    """

    tied: Mapping[str, str]
    unused: list[str]
    leaves: Mapping[str, str]


def tensor_rules(context: TemplateContext) -> list[TensorRule]:
    """The rules of a family for one config, without those whose condition does not hold.

    Raises:
        HuggingFaceError: a rule is malformed.
    """
    section = context.family.section("tensors")
    return [rule for name in section for rule in _rules(context, section, name)]


def _rules(context: TemplateContext, section: Map, name: str) -> Iterator[TensorRule]:
    mark, path = section.marks[name], f"tensors.{name}"
    rendered = context.render(section[name], path, mark)
    if rendered is None or rendered is OMITTED:
        return
    several = isinstance(rendered, list) and all(isinstance(one, Mapping) for one in cast("list[Any]", rendered))
    for one in cast("list[Any]", rendered) if several else [rendered]:
        yield _rule(context, name, one if isinstance(one, Mapping) else {"to": one}, path, mark)


def _rule(context: TemplateContext, name: str, rendered: Any, path: str, mark: Mark) -> TensorRule:
    entry = cast("dict[str, Any]", rendered)
    _check_rule(entry, path, mark)
    to = cast("list[str]", as_list(entry["to"]))
    reshape = tuple(entry["reshape"]) if "reshape" in entry else None
    layout = Layout(entry.get("transpose", False), entry.get("groups", 1), entry.get("axis", 0), reshape)
    targets = [NamePattern(_substitute(context, text, mark)) for text in to]
    source = NamePattern(_substitute(context, name, mark))
    extra = {index for target in targets for index in target.indices} - source.indices
    if extra:
        raise HuggingFaceError.at(mark, f"index {{{min(extra)}}} occurs in 'to' but not in the tensor's name", path)
    if len(source.indices - targets[0].indices) > 1:
        raise HuggingFaceError.at(mark, "at most one index of the tensor's name may be missing from 'to'", path)
    parts, sizes = cast("dict[str, int]", entry.get("parts", {})), None
    if parts:
        joined = source.indices - targets[0].indices
        if not joined or len(targets) > 1:
            raise HuggingFaceError.at(mark, "a rule with parts has an index that 'to', one parameter, lacks", path)
        source, sizes = NamePattern(source.text, {joined.pop(): [*parts]}), tuple(parts.values())
    where = partial(_holds, context, entry["where"], f"{path}.where", mark) if "where" in entry else None
    return TensorRule(source, tuple(targets), layout, entry.get("otherwise"), mark, where, sizes)


def _holds(context: TemplateContext, condition: str, path: str, mark: Mark, indices: Mapping[str, int]) -> bool:
    with context.assigned(indices):
        return bool(context.evaluate(condition, path, mark))


def _check_rule(entry: Mapping[str, Any], path: str, mark: Mark) -> None:
    for key, value in entry.items():
        if key not in _RULE_KEYS:
            hint = nearest(key, _RULE_KEYS) or f"known: {', '.join(_RULE_KEYS)}"
            raise HuggingFaceError.at(mark, f"unknown key {key!r} in a rule; {hint}", path)
        kind, description = _RULE_KEYS[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise HuggingFaceError.at(mark, f"{key} must be {description}, not {quoted(value)}", path)
    if not entry.get("to"):
        raise HuggingFaceError.at(mark, "'to' is missing: name the parameters that the tensor holds", path)


def tensor_names(context: TemplateContext) -> TensorNames:
    """The tied, unused and respelled names of a family, for one config."""
    family = context.family
    tied = family.section("tied")
    rendered = {
        _substitute(context, name, tied.marks[name]): str(value)
        for name in tied
        if (value := context.render(tied[name], f"tied.{name}", tied.marks[name])) not in (None, OMITTED)
    }
    mark = family.tree.marks.get("unused", Mark(str(family.path)))
    return TensorNames(
        {name: _substitute(context, value, mark) for name, value in rendered.items()},
        [_substitute(context, pattern, mark) for pattern in family.list_section("unused")],
        dict(family.section("leaves")),
    )


def _substitute(context: TemplateContext, text: str, mark: Mark) -> str:
    """A tensor's name with names from ``let`` replaced by their values; what remains in braces is an index."""
    for name in _PLACEHOLDER.findall(text):
        if name in context.family.templates:
            value = context.evaluate(name, f"tensors.{text}", mark)
            if not isinstance(value, str | int):
                raise HuggingFaceError.at(mark, f"{{{name}}} must be text or a number, not {quoted(value)}", text)
            text = text.replace(f"{{{name}}}", str(value))
    return text
