"""From stored tensors to parameters."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor

from blockformer.huggingface.name_pattern import Match
from blockformer.huggingface.rules import Names, Rule

Shapes = Mapping[str, tuple[int, ...]]


class Claim(NamedTuple):
    """Stored tensors that one rule turns into parameters: by their place in the stack, or one alone."""

    rule: Rule
    indices: tuple[tuple[str, int], ...]
    rest: str


@dataclass
class Reading:
    """What became of the stored tensors.

    Attributes:
        parameters: every parameter that was found.
        problems: what could not be read, one line each.
    """

    parameters: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    problems: list[str] = field(default_factory=list[str])


def read_parameters(rules: list[Rule], names: Names, stored: Mapping[str, Tensor], shapes: Shapes) -> Reading:
    """Every parameter of a model from the tensors of a folder.

    Args:
        rules: the family's.
        names: what else the family says of names.
        stored: the folder's tensors.
        shapes: of the model's parameters.

    Returns:
        The parameters, and a problem for every tensor that nobody read and every parameter that nobody gave.
    """
    reading = Reading()
    places = _places(stored, names)
    claims, left = _claims(rules, places, shapes)
    for claim, sources in claims.items():
        try:
            _apply(claim, {index: stored[places[name]] for index, name in sources.items()}, shapes, reading)
        except ValueError as error:
            reading.problems.append(f"{', '.join(list(sources.values())[:2])}: {error}")
    reading.problems += _left_over(left, names, stored, places)
    _fill(rules, shapes, reading)
    return reading


def _places(stored: Mapping[str, Tensor], names: Names) -> dict[str, str]:
    """The names under which tensors are read, and those under which they are stored.

    They differ in other spellings, and where a tensor is missing that another repeats.
    """
    places: dict[str, str] = {}
    for name in stored:
        parent, dot, leaf = name.rpartition(".")
        places[parent + dot + names.leaves.get(leaf, leaf)] = name
    for name, same in names.tied.items():
        if name in places and same not in places:
            places[same] = places.pop(name)
    return places


def _claims(
    rules: list[Rule], places: Mapping[str, str], shapes: Shapes
) -> tuple[dict[Claim, dict[int, str]], list[str]]:
    claims: dict[Claim, dict[int, str]] = {}
    left: list[str] = []
    for name in places:
        if best := _best(rules, name, shapes):
            rule, match = best
            place = match.indices.get(rule.stacked or "", 0)
            common = tuple((key, value) for key, value in match.indices.items() if key != rule.stacked)
            claims.setdefault(Claim(rule, common, match.rest), {})[place] = name
        else:
            left.append(name)
    return claims, left


def _best(rules: list[Rule], name: str, shapes: Shapes) -> tuple[Rule, Match] | None:
    """The rule with the longest pattern that stands for a name and whose parameters the model has."""
    found = [(rule, match) for rule in rules if (match := rule.source.match(name))]
    known = [(r, m) for r, m in found if any(target.name(m.indices, m.rest) in shapes for target in r.targets)]
    return max(known, key=lambda pair: len(pair[0].source.text), default=None)


def _apply(claim: Claim, tensors: Mapping[int, Tensor], shapes: Shapes, reading: Reading) -> None:
    rule, indices = claim.rule, dict(claim.indices)
    targets = [target.name(indices, claim.rest) for target in rule.targets]
    if absent := [name for name in targets if name not in shapes]:
        raise ValueError(f"holds {absent[0]}, which the model has not")
    if rule.stacked and sorted(tensors) != list(range(len(tensors))):
        raise ValueError(f"{rule.stacked} numbers are {sorted(tensors)}, but must count from 0")
    whole = torch.stack([tensors[place] for place in range(len(tensors))]) if rule.stacked else tensors[0]
    for name, tensor in zip(targets, rule.layout.split(whole, [shapes[name] for name in targets]), strict=True):
        if name in reading.parameters:
            raise ValueError(f"gives {name}, which another tensor gives too")
        reading.parameters[name] = tensor.contiguous()


def _left_over(left: list[str], names: Names, stored: Mapping[str, Tensor], places: Mapping[str, str]) -> Iterator[str]:
    for name in left:
        same = names.tied.get(name)
        if same is not None and same in places:
            if not torch.equal(stored[places[name]], stored[places[same]]):
                yield f"{places[name]}: differs from {places[same]}, although the model ties them"
        elif not any(fnmatchcase(name, pattern) for pattern in names.unused):
            yield f"{places[name]}: nothing in the family file reads this tensor"


def _fill(rules: list[Rule], shapes: Shapes, reading: Reading) -> None:
    """Give parameters that are not stored the value that their rule names, if it does."""
    for name, shape in shapes.items():
        if name in reading.parameters:
            continue
        found = [rule for rule in rules if any(target.match(name) for target in rule.targets)]
        values = [rule.otherwise for rule in found if rule.otherwise is not None]
        if values:
            reading.parameters[name] = torch.full(shape, values[0])
        else:
            places = " or ".join(dict.fromkeys(rule.source.text for rule in found))
            reason = f"; it is read from {places}, which is not there" if places else ", and no rule says where it is"
            reading.problems.append(f"{name}: no tensor gives this parameter{reason}")
