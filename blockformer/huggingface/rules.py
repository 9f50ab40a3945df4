"""A family's rules for tensors: which stored tensor holds which parameters, and in what layout."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from blockformer.huggingface.errors import InterchangeError
from blockformer.huggingface.family import as_list
from blockformer.huggingface.name_pattern import INDEX, Pattern
from blockformer.huggingface.template import OMITTED, Filling
from blockformer.huggingface.tensor_layout import Layout
from registry import Mark
from registry.errors import nearest, quoted
from registry.strict_yaml import Map

KEYS = {"to": (str, list), "transpose": bool, "groups": int, "axis": int, "reshape": list, "otherwise": (int, float)}


@dataclass(frozen=True)
class Names:
    """What a family says of names beside its rules.

    Attributes:
        tied: names of tensors that only repeat another, which is the value.
        unused: patterns of names that hold nothing which the model learns.
        leaves: other spellings of the last part of a name.
    """

    tied: Mapping[str, str]
    unused: list[str]
    leaves: Mapping[str, str]


@dataclass(frozen=True)
class Rule:
    """One stored tensor, or one for each index that the parameters have not (an expert's), and what it holds.

    Attributes:
        source: its name.
        targets: the parameters in it, in their order.
        layout: how they are put together.
        otherwise: the value of all numbers in the parameters if it is not stored; None: it must be.
        mark: where the rule stands.
    """

    source: Pattern
    targets: tuple[Pattern, ...]
    layout: Layout
    otherwise: float | None
    mark: Mark

    @property
    def stacked(self) -> str | None:
        """The index over which stored tensors are stacked into one parameter."""
        return next(iter(self.source.indices - self.targets[0].indices), None)


def rules_of(filling: Filling) -> list[Rule]:
    """The rules of a family for one config, without those whose condition does not hold.

    Raises:
        InterchangeError: a rule is not well formed.
    """
    section = filling.family.section("tensors")
    return [rule for name in section for rule in _rules(filling, section, name)]


def _rules(filling: Filling, section: Map, name: str) -> Iterator[Rule]:
    mark, path = section.marks[name], f"tensors.{name}"
    filled = filling.fill(section[name], path, mark)
    if filled is None or filled is OMITTED:
        return
    says = cast("dict[str, Any]", filled) if isinstance(filled, Mapping) else {"to": filled}
    _check(says, path, mark)
    to = cast("list[str]", as_list(says["to"]))
    reshape = tuple(says["reshape"]) if "reshape" in says else None
    layout = Layout(says.get("transpose", False), says.get("groups", 1), says.get("axis", 0), reshape)
    source, *targets = (Pattern(named(filling, text, mark)) for text in (name, *to))
    rule = Rule(source, tuple(targets), layout, says.get("otherwise"), mark)
    extra = {index for target in targets for index in target.indices} - source.indices
    if extra or len(source.indices - targets[0].indices) > 1:
        wrong = f"{{{min(extra)}}} stands on one side only" if extra else "only one index can be left out in 'to'"
        raise InterchangeError.at(mark, wrong, path)
    yield rule


def names_of(filling: Filling) -> Names:
    """What a family says of names beside its rules, for one config."""
    family = filling.family
    tied = family.section("tied")
    same = {
        named(filling, name, tied.marks[name]): str(value)
        for name in tied
        if (value := filling.fill(tied[name], f"tied.{name}", tied.marks[name])) not in (None, OMITTED)
    }
    mark = family.tree.marks.get("unused", Mark(str(family.path)))
    return Names(
        {name: named(filling, value, mark) for name, value in same.items()},
        [named(filling, pattern, mark) for pattern in family.listed("unused")],
        dict(family.section("leaves")),
    )


def named(filling: Filling, text: str, mark: Mark) -> str:
    """A name of a tensor with the family's own names filled in; what is left in braces is an index."""
    for name in INDEX.findall(text):
        if name in filling.family.templates:
            value = filling.computed(name, f"tensors.{text}", mark)
            if not isinstance(value, str | int):
                raise InterchangeError.at(mark, f"{{{name}}} must be text or a number, not {quoted(value)}", text)
            text = text.replace(f"{{{name}}}", str(value))
    return text


def _check(says: Mapping[str, Any], path: str, mark: Mark) -> None:
    for key, value in says.items():
        if key not in KEYS:
            hint = nearest(key, KEYS) or f"known: {', '.join(KEYS)}"
            raise InterchangeError.at(mark, f"a rule has no {key!r}; {hint}", path)
        if not isinstance(value, KEYS[key]) or (KEYS[key] is int and isinstance(value, bool)):
            raise InterchangeError.at(mark, f"{key} cannot be {value!r}", path)
    if not says.get("to"):
        raise InterchangeError.at(mark, "a rule must say 'to' which parameters the tensor belongs", path)
