"""Convert stored tensors to the parameters of a model, and back, by the rules of a family."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from blockformer.assembly.checkpoint_schema import tensor_problem
from blockformer.assembly.free_memory import require_free
from blockformer.huggingface.tensor_layout import NameMatch, TensorNames, TensorRule

Shapes = Mapping[str, tuple[int, ...]]


class RuleUse(NamedTuple):
    """A rule together with the values of its indices and the suffix of the name (such as ``.weight``)."""

    rule: TensorRule
    indices: tuple[tuple[str, int], ...]
    suffix: str


@dataclass
class Conversion:
    """The result of converting stored tensors.

    Attributes:
        parameters: the parameters that were found.
        problems: one message for each tensor or parameter that could not be converted.
        refused: parameters whose stored tensors cannot be used.
    """

    parameters: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    problems: list[str] = field(default_factory=list[str])
    refused: set[str] = field(default_factory=set[str])


def parameters_from_tensors(
    rules: list[TensorRule], names: TensorNames, stored: Mapping[str, Tensor], shapes: Shapes
) -> Conversion:
    """The parameters of a model from the tensors of a folder.

    Args:
        rules: of the family.
        names: the family's tied, unused and respelled names.
        stored: the folder's tensors.
        shapes: of the model's parameters.

    Returns:
        The parameters, and a problem for every tensor that no rule reads and every parameter without a value.
    """
    result = Conversion()
    file_names = _file_names(stored, names)
    uses, unmatched = _match_rules(rules, file_names, shapes)
    for use, sources in uses.items():
        tensors = {index: stored[file_names[name]] for index, name in sources.items()}
        unsound = [(sources[index], problem) for index, tensor in tensors.items() if (problem := _problem(tensor))]
        result.problems += [f"{file_names[name]}: {problem}" for name, problem in unsound]
        if unsound:
            result.refused.update(target.name(dict(use.indices), use.suffix) for target in use.rule.targets)
            continue
        try:
            _convert(use, tensors, shapes, result)
        except (ValueError, IndexError, RuntimeError) as error:  # the last two from torch, for shapes that do not fit
            reason = str(error).partition("\n")[0]
            result.problems.append(f"{', '.join(list(sources.values())[:2])}: {reason}")
    result.problems += _unmatched_problems(unmatched, names, stored, file_names)
    _fill_missing(rules, shapes, result)
    return result


def _problem(tensor: Tensor) -> str | None:
    """Why a stored tensor cannot be a parameter; None: it can."""
    if not tensor.is_floating_point():
        return f"is of {tensor.dtype}; parameters are floating-point numbers (quantized weights are not supported)"
    return tensor_problem(tensor)


def _file_names(stored: Mapping[str, Tensor], names: TensorNames) -> dict[str, str]:
    """The name that each stored tensor has in the files, by the name that the rules use.

    The two differ in alternative spellings, and where only the repetition of a tied tensor is stored.
    """
    file_names: dict[str, str] = {}
    for name in stored:
        parent, dot, leaf = name.rpartition(".")
        file_names[parent + dot + names.leaves.get(leaf, leaf)] = name
    for name, original in names.tied.items():
        if name in file_names and original not in file_names:
            file_names[original] = file_names.pop(name)
    return file_names


def _match_rules(
    rules: list[TensorRule], file_names: Mapping[str, str], shapes: Shapes
) -> tuple[dict[RuleUse, dict[int, str]], list[str]]:
    """For each use of a rule its tensors by their stacked index (0 without one), and the tensors without a rule."""
    uses: dict[RuleUse, dict[int, str]] = {}
    unmatched: list[str] = []
    for name in file_names:
        if best := _best_rule(rules, name, shapes):
            rule, match = best
            place = match.indices.get(rule.stacked_index or "", 0)
            common = tuple((key, value) for key, value in match.indices.items() if key != rule.stacked_index)
            uses.setdefault(RuleUse(rule, common, match.suffix), {})[place] = name
        else:
            unmatched.append(name)
    return uses, unmatched


def _best_rule(rules: list[TensorRule], name: str, shapes: Shapes) -> tuple[TensorRule, NameMatch] | None:
    """Of the rules that match a name and whose parameters the model has, the one with the longest pattern."""
    found = [(rule, match) for rule in rules if (match := rule.source.match(name))]
    known = [(r, m) for r, m in found if any(target.name(m.indices, m.suffix) in shapes for target in r.targets)]
    known = [(rule, match) for rule, match in known if rule.applies(match.indices)]
    return max(known, key=lambda pair: len(pair[0].source.text), default=None)


def _convert(use: RuleUse, tensors: Mapping[int, Tensor], shapes: Shapes, result: Conversion) -> None:
    rule, indices = use.rule, dict(use.indices)
    targets = [target.name(indices, use.suffix) for target in rule.targets]
    if absent := [name for name in targets if name not in shapes]:
        raise ValueError(f"contains {absent[0]}, which the model does not have")
    if rule.stacked_index and sorted(tensors) != list(range(len(tensors))):
        raise ValueError(f"the values of {{{rule.stacked_index}}} are {sorted(tensors)}; expected 0, 1, 2, ...")
    parts = [tensors[index] for index in range(len(tensors))]
    join = torch.cat if rule.sizes else torch.stack
    whole = join(parts) if rule.stacked_index else parts[0]
    for name, tensor in zip(targets, rule.layout.split(whole, [shapes[name] for name in targets]), strict=True):
        if name in result.parameters:
            raise ValueError(f"contains {name}, which another tensor contains too")
        result.parameters[name] = tensor.contiguous()


def _unmatched_problems(
    unmatched: list[str], names: TensorNames, stored: Mapping[str, Tensor], file_names: Mapping[str, str]
) -> Iterator[str]:
    for name in unmatched:
        original = names.tied.get(name)
        if original is not None and original in file_names:
            if not torch.equal(stored[file_names[name]], stored[file_names[original]]):
                yield f"{file_names[name]}: differs from {file_names[original]}, but the family ties the two"
        elif not any(fnmatchcase(name, pattern) for pattern in names.unused):
            yield f"{file_names[name]}: no rule of the family reads this tensor"


def _fill_missing(rules: list[TensorRule], shapes: Shapes, result: Conversion) -> None:
    """Fill parameters that are not stored with the ``otherwise`` value of their rule, if it has one."""
    for name, shape in shapes.items():
        if name in result.parameters or name in result.refused:
            continue
        found = [rule for rule, _ in _rules_for(rules, name)]
        values = [rule.otherwise for rule in found if rule.otherwise is not None]
        if values:
            require_free(prod(shape) * 4, f"the parameter {name}, which the folder lacks,")
            result.parameters[name] = torch.full(shape, values[0])
            continue
        sources = " or ".join(dict.fromkeys(rule.source.text for rule in found))
        reason = f"the folder has no tensor {sources}" if sources else "no rule of the family names it"
        result.problems.append(f"{name}: this parameter has no value: {reason}")


def tensors_from_parameters(rules: list[TensorRule], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a folder from the parameters of a model; the inverse of :func:`parameters_from_tensors`.

    Args:
        rules: of the family; if several write the same parameter, the first is used.
        parameters: of the model, by name.

    Raises:
        ValueError: no rule writes some parameters; the message lists them.
    """
    uses: dict[RuleUse, None] = {}
    missing: list[str] = []
    for name in parameters:
        found = next(_rules_for(rules, name), None)
        if found is None:
            missing.append(name)
        else:
            rule, match = found
            uses[RuleUse(rule, tuple(sorted(match.indices.items())), match.suffix)] = None
    if missing:
        raise ValueError(f"no rule of the family writes {', '.join(missing)}")
    return {name: tensor for use in uses for name, tensor in _tensors(use, parameters)}


def _rules_for(rules: list[TensorRule], name: str) -> Iterator[tuple[TensorRule, NameMatch]]:
    """The rules that have a parameter among their targets, the one with the longest pattern first."""
    found = [(rule, target, match) for rule in rules for target in rule.targets if (match := target.match(name))]
    for rule, _, match in sorted(found, key=lambda item: -len(item[1].text)):
        if rule.applies(match.indices):
            yield rule, match


def _tensors(use: RuleUse, parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    rule, indices = use.rule, dict(use.indices)
    parts = [parameters[target.name(indices, use.suffix)] for target in rule.targets]
    if rule.stacked_index is None:
        yield rule.source.name(indices, use.suffix), rule.layout.join(parts).contiguous()
        return
    split = zip(*(part.split(rule.sizes) if rule.sizes else part for part in parts), strict=True)
    for index, pieces in enumerate(split):
        tensor = rule.layout.join(pieces)
        yield rule.source.name({**indices, rule.stacked_index: index}, use.suffix), tensor.contiguous()
