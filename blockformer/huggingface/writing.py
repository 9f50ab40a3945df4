"""From parameters to stored tensors."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from blockformer.huggingface.name_pattern import Match
from blockformer.huggingface.rules import Rule


class Stored(NamedTuple):
    """A stored tensor: the rule that makes it, and the indices and the rest of its name."""

    rule: Rule
    indices: tuple[tuple[str, int], ...]
    rest: str


def write_tensors(rules: list[Rule], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a folder from the parameters of a model: the family's rules read backwards.

    Args:
        rules: the family's; of several for one parameter, the first is taken.
        parameters: of the model, by name.

    Raises:
        ValueError: no rule writes a parameter; the message names all such.
    """
    made: dict[Stored, None] = {}
    missing: list[str] = []
    for name in parameters:
        found = next(_rules_for(rules, name), None)
        if found is None:
            missing.append(name)
        else:
            rule, match = found
            made[Stored(rule, tuple(sorted(match.indices.items())), match.rest)] = None
    if missing:
        raise ValueError(f"no rule writes {', '.join(missing)}")
    return {name: tensor for stored in made for name, tensor in _tensors(stored, parameters)}


def _rules_for(rules: list[Rule], name: str) -> Iterator[tuple[Rule, Match]]:
    """The rules whose parameters this is one of; a rule that names it more closely comes first."""
    found = [(rule, target, match) for rule in rules for target in rule.targets if (match := target.match(name))]
    for rule, _, match in sorted(found, key=lambda item: -len(item[1].text)):
        yield rule, match


def _tensors(stored: Stored, parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    rule, indices = stored.rule, dict(stored.indices)
    parts = [parameters[target.name(indices, stored.rest)] for target in rule.targets]
    if rule.stacked is None:
        yield rule.source.name(indices, stored.rest), rule.layout.joined(parts).contiguous()
        return
    for number in range(len(parts[0])):
        one = rule.layout.joined([part[number] for part in parts])
        yield rule.source.name({**indices, rule.stacked: number}, stored.rest), one.contiguous()
