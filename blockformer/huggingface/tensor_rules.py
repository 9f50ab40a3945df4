"""Which stored tensor holds which parameters: the section ``tensors`` of a family."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite, prod
from typing import Any, cast

import torch
from torch import Tensor

from blockformer.huggingface.errors import HuggingFaceError
from blockformer.huggingface.family import as_list
from blockformer.huggingface.name_pattern import NamePattern, substituted
from blockformer.huggingface.template import OMITTED, TemplateContext
from blockformer.huggingface.tensor_layout import Layout, Rearrangement
from registry import Mark
from registry.errors import nearest, quoted

_RULE_KEYS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "to": ((str, list), "a parameter or a list of parameters"),
    "transpose": (bool, "true or false"),
    "groups": (int, "a whole number"),
    "axis": (int, "a whole number"),
    "reshape": (list, "a list of sizes"),
    "rearrange": (str, "text such as '(expert f) d -> expert d f'"),
    "sizes": (Mapping, "a mapping of axes to sizes"),
    "times": ((int, float), "a number"),
    "otherwise": ((int, float), "a number"),
    "where": (str, "a condition"),
    "parts": (Mapping, "a mapping of names to lengths"),
    "chunks": (int, "a whole number"),
    "constant": ((int, float), "a number"),
    "shape": (list, "a list of sizes"),
    "for": (str, "a parameter"),
}
_OF_CONSTANTS = ("constant", "shape", "for")


@dataclass(frozen=True)
class TensorRule:
    """Maps a stored tensor, or one for each value of an index (such as an expert's), to parameters.

    Attributes:
        source: the name of the stored tensor.
        targets: the parameters that it holds, in order.
        layout: how it holds them.
        otherwise: the value of all elements of the parameters if the tensor is missing; None: it is required.
        mark: file and line of the rule.
        generation: 0 for a rule of the family itself, 1 for one of the family that it extends, and so on.
        where: whether the rule applies at some indices; None: at all.
        lengths: of the parts of a parameter, along its first axis, that the export writes as tensors of their own; the
            import takes any. None: each value of an index that the parameter lacks is one item of its first axis.
        chunks: number of such parts, all of which but the last have the same length; fewer where that leaves none for
            some. None: no such parts.
    """

    source: NamePattern
    targets: tuple[NamePattern, ...]
    layout: Layout
    otherwise: float | None
    mark: Mark
    generation: int = 0
    where: Callable[[Mapping[str, int]], bool] | None = None
    lengths: tuple[int, ...] | None = None
    chunks: int | None = None

    def applies(self, indices: Mapping[str, int]) -> bool:
        """Whether the rule is for a tensor or parameter with these indices."""
        if self.where is None:
            return True
        first = {} if self.stacked_index is None else {self.stacked_index: 0}  # stands for all in an export
        return self.where({**first, **indices})

    @property
    def stacked_index(self) -> str | None:
        """The index over which stored tensors are stacked into one parameter."""
        return next(iter(self.source.indices - self.targets[0].indices), None)

    def parameters(self, tensors: Mapping[int, Tensor], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """The parameters from the stored tensors, by the value of the index over which they are stacked, or 0.

        Raises:
            ValueError: some are missing or too many, or their shapes do not fit those of the parameters.
        """
        if self.stacked_index is None:
            return self.layout.split(tensors[0], shapes)
        known = self._lengths(shapes[0][0])
        count = len(known or ()) or shapes[0][0]
        if sorted(tensors) != list(range(count)):
            found, last = [self.source.value(self.stacked_index, index) for index in sorted(tensors)], count - 1
            expected = [self.source.value(self.stacked_index, index) for index in (0, last)]
            reason = f"{expected[0]} to {expected[1]}" if last else expected[0]
            raise ValueError(f"the values of {{{self.stacked_index}}} are {', '.join(found)}; expected {reason}")
        if known is None:
            columns = [self.layout.split(tensors[index], [shape[1:] for shape in shapes]) for index in range(count)]
            return [torch.stack(column) for column in zip(*columns, strict=True)]
        rest, lengths = shapes[0][1:], [tensors[index].numel() // prod(shapes[0][1:]) for index in range(count)]
        if sum(lengths) != shapes[0][0]:
            raise ValueError(f"the parts have {sum(lengths)} rows together; the parameter has shape {shapes[0]}")
        parts = [(tensors[index], (length, *rest)) for index, length in enumerate(lengths)]
        return [torch.cat([self.layout.split(tensor, [shape])[0] for tensor, shape in parts])]

    def tensors(self, parameters: Sequence[Tensor]) -> Iterator[tuple[int, Tensor]]:
        """The inverse of :meth:`parameters`."""
        if self.stacked_index is None:
            yield 0, self.layout.join(parameters)
            return
        lengths = self._lengths(parameters[0].shape[0])
        rows = [one.split(lengths) if lengths else one.unbind() for one in parameters]
        for index, pieces in enumerate(zip(*rows, strict=True)):
            yield index, self.layout.join(pieces)

    def _lengths(self, rows: int) -> tuple[int, ...] | None:
        """The lengths of the parts of ``rows`` rows; None: there are no parts."""
        if self.chunks is None:
            return self.lengths
        each = -(-rows // self.chunks)
        return tuple(min(each, rows - first) for first in range(0, rows, each))

    def places(self, indices: Mapping[str, int], suffix: str, names: Iterable[str]) -> list[Mapping[str, int]]:
        """The indices of the parameters that one stored tensor is for: of several layers if only ``to`` has an index.

        Args:
            indices: those of the stored tensor.
            suffix: the part of its name after the rule's.
            names: of all parameters.
        """
        target = self.targets[0]
        if not target.indices - self.source.indices:
            return [indices]
        found = [match for name in names if (match := target.match(name)) and match.suffix == suffix]
        shared = target.indices & set(indices)
        return [match.indices for match in found if all(match.indices[key] == indices[key] for key in shared)]


@dataclass(frozen=True)
class ConstantTensor:
    """A stored tensor for which the model has no parameter, because all its elements have one value.

    Attributes:
        source: its name.
        value: of all elements.
        shape: its shape.
        place: a parameter; the tensor exists for each value of the indices with which the model has that.
        mark: file and line of the rule.
    """

    source: NamePattern
    value: float
    shape: tuple[int, ...]
    place: NamePattern | None
    mark: Mark

    def names(self, parameters: Iterable[str]) -> list[str]:
        """The names of the tensors of a model with these parameters."""
        if self.place is None:
            return [self.source.text]
        found = [match for name in parameters if (match := self.place.match(name)) and not match.suffix]
        return list(dict.fromkeys(self.source.name(match.indices) for match in found))


def tensor_rules(context: TemplateContext) -> list[TensorRule]:
    """The rules of a family for one config, without those whose condition does not hold.

    Raises:
        HuggingFaceError: a rule is malformed.
    """
    return [rule for rule in _rules(context) if isinstance(rule, TensorRule)]


def constant_tensors(context: TemplateContext) -> list[ConstantTensor]:
    """The tensors of a family that have one value, for one config.

    Raises:
        HuggingFaceError: a rule is malformed.
    """
    return [rule for rule in _rules(context) if isinstance(rule, ConstantTensor)]


def _rules(context: TemplateContext) -> Iterator[TensorRule | ConstantTensor]:
    section = context.family.section("tensors")
    for name in sorted(section, key=lambda name: _rank(context, section.marks[name])):
        mark, path = section.marks[name], f"tensors.{name}"
        rendered = context.render(section[name], path, mark)
        if rendered is None or rendered is OMITTED:
            continue
        for one in _entries(rendered):
            _check_rule(one, path, mark)
            source = NamePattern(substituted(context, name, mark))
            yield (_constant if "constant" in one else _rule)(context, source, one, path, mark)


def _rank(context: TemplateContext, mark: Mark) -> tuple[int, int]:
    """Rules of the family itself come before inherited ones, each in the order of the file."""
    return context.family.generation(mark), mark.line or 0


def _entries(rendered: Any) -> list[Mapping[str, Any]]:
    """The rules of one tensor: a mapping, a list of mappings, or what is short for a mapping with ``to``."""
    if isinstance(rendered, Mapping):
        return [cast("Mapping[str, Any]", rendered)]
    items = cast("list[Any]", rendered) if isinstance(rendered, list) else []
    return items if items and all(isinstance(one, Mapping) for one in items) else [{"to": rendered}]


def _rule(context: TemplateContext, source: NamePattern, entry: Mapping[str, Any], path: str, mark: Mark) -> TensorRule:
    targets = [NamePattern(substituted(context, text, mark)) for text in cast("list[str]", as_list(entry["to"]))]
    if len(source.indices - targets[0].indices) > 1:
        raise HuggingFaceError.at(mark, "at most one index of the tensor's name may be missing from 'to'", path)
    if another := next((target for target in targets if target.indices != targets[0].indices), None):
        raise HuggingFaceError.at(mark, f"the parameters {targets[0]} and {another} have different indices", path)
    generation, layout = context.family.generation(mark), _layout(entry, path, mark)
    parts: Mapping[str, int] = entry.get("parts", {})
    if "parts" in entry:
        joined = source.indices - targets[0].indices
        if not parts or not joined or len(targets) > 1:
            reason = "'parts' names at least one part; 'to' is one parameter, which lacks an index of the tensor's name"
            raise HuggingFaceError.at(mark, reason, path)
        source = NamePattern(source.text, {joined.pop(): list(parts)})
    where = partial(_holds, context, entry["where"], f"{path}.where", mark) if "where" in entry else None
    lengths = tuple(parts.values()) or None
    other = entry.get("otherwise"), mark, generation, where, lengths, entry.get("chunks")
    return TensorRule(source, tuple(targets), layout, *other)


def _holds(context: TemplateContext, condition: str, path: str, mark: Mark, indices: Mapping[str, int]) -> bool:
    with context.assigned(indices):
        return bool(context.evaluate(condition, path, mark))


def _layout(entry: Mapping[str, Any], path: str, mark: Mark) -> Layout:
    if "reshape" in entry and "rearrange" in entry:
        raise HuggingFaceError.at(mark, "reshape and rearrange cannot be combined: rearrange gives both shapes", path)
    sizes = cast("dict[str, int]", entry.get("sizes", {}))
    try:
        rearrange = Rearrangement(entry["rearrange"], sizes) if "rearrange" in entry else None
    except ValueError as error:
        raise HuggingFaceError.at(mark, str(error), f"{path}.rearrange") from None
    if sizes and rearrange is None:
        raise HuggingFaceError.at(mark, "sizes are those of the axes in 'rearrange', which is missing", path)
    reshape = tuple(entry["reshape"]) if "reshape" in entry else None
    return Layout(
        entry.get("transpose", False), entry.get("groups", 1), entry.get("axis", 0), reshape, rearrange,
        float(entry.get("times", 1.0)),
    )  # fmt: skip


def _constant(
    context: TemplateContext, source: NamePattern, entry: Mapping[str, Any], path: str, mark: Mark
) -> ConstantTensor:
    if others := [key for key in entry if key not in _OF_CONSTANTS]:
        raise HuggingFaceError.at(
            mark, f"{others[0]} has no effect beside 'constant': the model has no parameter", path
        )
    if "shape" not in entry:
        raise HuggingFaceError.at(mark, "'shape' is missing: the export writes a constant tensor of this shape", path)
    place = NamePattern(substituted(context, entry["for"], mark)) if "for" in entry else None
    if missing := source.indices - (place.indices if place else set()):
        reason = f"'for' must name a parameter with the index {{{min(missing)}}}, so that its values are known"
        raise HuggingFaceError.at(mark, reason, path)
    return ConstantTensor(source, float(entry["constant"]), tuple(entry["shape"]), place, mark)


def _check_rule(entry: Mapping[str, Any], path: str, mark: Mark) -> None:
    for key, value in entry.items():
        if key not in _RULE_KEYS:
            hint = nearest(key, _RULE_KEYS) or f"known: {', '.join(_RULE_KEYS)}"
            raise HuggingFaceError.at(mark, f"unknown key {key!r} in a rule; {hint}", path)
        kind, description = _RULE_KEYS[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise HuggingFaceError.at(mark, f"{key} must be {description}, not {quoted(value)}", path)
    if not entry.get("to") and "constant" not in entry:
        raise HuggingFaceError.at(mark, "'to' is missing: name the parameters that the tensor holds", path)
    if not all(isinstance(target, str) for target in as_list(entry.get("to"))):
        raise HuggingFaceError.at(
            mark, f"to must be a parameter or a list of parameters, not {quoted(entry['to'])}", path
        )
    for key in ("reshape", "shape", "sizes", "parts"):
        _check_sizes(key, entry.get(key, []), path, mark)
    for key in ("groups", "chunks"):
        if entry.get(key, 1) < 1:
            raise HuggingFaceError.at(mark, f"{key} must be at least 1, not {entry[key]}", path)
    if entry.get("times", 1) == 0 or not isfinite(entry.get("times", 1)):
        raise HuggingFaceError.at(mark, f"times must be a number other than 0, not {entry['times']}", path)


def _check_sizes(key: str, sizes: Any, path: str, mark: Mark) -> None:
    values = list(sizes.values()) if isinstance(sizes, Mapping) else list(sizes)
    rest = values.count(-1) if key == "reshape" else 0
    if rest > 1 or not all(type(size) is int and (size > 0 or (size == -1 and rest)) for size in values):
        also = ", one of which may be -1 for the rest" if key == "reshape" else ""
        raise HuggingFaceError.at(mark, f"{key} must have whole numbers above 0{also}, not {quoted(sizes)}", path)
