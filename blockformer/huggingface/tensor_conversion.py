"""Convert stored tensors to the parameters of a model, and back, by the rules of a family."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from blockformer.assembly.checkpoint_schema import tensor_problem
from blockformer.assembly.free_memory import require_free
from blockformer.huggingface.name_pattern import NameMatch, NamePattern
from blockformer.huggingface.tensor_names import TensorNames
from blockformer.huggingface.tensor_rules import ConstantTensor, TensorRule
from registry.errors import nearest

_MOST_HINTS = 20  # each compares a name with those of all parameters

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
        unused: names of the stored tensors that the model does not use.
    """

    parameters: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    problems: list[str] = field(default_factory=list[str])
    refused: set[str] = field(default_factory=set[str])
    unused: list[str] = field(default_factory=list[str])


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
    file_names = _file_names(stored, names, result)
    uses, unmatched = _match_rules(rules, file_names, shapes)
    for use, sources in uses.items():
        tensors = {index: stored[file_names[name]] for index, name in sources.items()}
        unsound = [(sources[index], problem) for index, tensor in tensors.items() if (problem := _problem(tensor))]
        result.problems += [f"{file_names[name]}: {problem}" for name, problem in unsound]
        try:
            if not unsound:
                _convert(use, tensors, shapes, result)
                continue
        except (ValueError, IndexError, RuntimeError) as error:  # the last two from torch, for shapes that do not fit
            reason = str(error).partition("\n")[0]
            result.problems.append(f"{', '.join(list(sources.values())[:2])}: {reason}")
        result.refused.update(name for place in _targets(use, shapes) for name in place)
    for name in unmatched:
        _sort_out(name, rules, names, stored, file_names, shapes, result)
    _fill_missing(rules, shapes, result)
    return result


def _problem(tensor: Tensor) -> str | None:
    """Why a stored tensor cannot be a parameter; None: it can."""
    if not tensor.is_floating_point():
        return f"is of {tensor.dtype}; parameters are floating-point numbers (quantized weights are not supported)"
    return tensor_problem(tensor)


def _file_names(stored: Mapping[str, Tensor], names: TensorNames, result: Conversion) -> dict[str, str]:
    """The name that each stored tensor has in the files, by the name that the rules use.

    The two differ in alternative spellings, and where only the repetition of a tied tensor is stored.
    """
    file_names: dict[str, str] = {}
    for name in stored:
        usual = names.respelled(name)
        if usual in file_names:
            result.problems.append(f"{name}: is another spelling of {file_names[usual]}, which the folder has too")
        file_names[usual] = name
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
    """Of the rules that match a name and whose parameters the model has, the family's own, then the longest pattern."""
    found = _matching(rules, name)
    known = [(rule, match) for rule, match in found if _model_has(rule, match, shapes)]
    return min(known, key=lambda pair: (pair[0].generation, -len(pair[0].source.text)), default=None)


def _matching(rules: list[TensorRule], name: str) -> list[tuple[TensorRule, NameMatch]]:
    found = ((rule, rule.source.match(name)) for rule in rules)
    return [(rule, match) for rule, match in found if match is not None and rule.applies(match.indices)]


def _model_has(rule: TensorRule, match: NameMatch, shapes: Shapes) -> bool:
    """Whether the model has at least one of the parameters for which a stored tensor is."""
    places = rule.places(match.indices, match.suffix, shapes)
    return any(target.name(places[0], match.suffix) in shapes for target in rule.targets) if places else False


def _targets(use: RuleUse, names: Iterable[str]) -> list[list[str]]:
    """The parameters that a stored tensor holds; several times if it is for several layers."""
    places = use.rule.places(dict(use.indices), use.suffix, names)
    return [[target.name(place, use.suffix) for target in use.rule.targets] for place in places]


def _convert(use: RuleUse, tensors: Mapping[int, Tensor], shapes: Shapes, result: Conversion) -> None:
    for number, targets in enumerate(_targets(use, shapes)):
        if absent := [name for name in targets if name not in shapes]:
            raise ValueError(f"contains {absent[0]}, which the model does not have{_hint(absent[0], shapes, result)}")
        parts = use.rule.parameters(tensors, [shapes[name] for name in targets])
        for name, tensor in zip(targets, parts, strict=True):
            if name in result.parameters:
                raise ValueError(f"contains {name}, which another tensor contains too")
            result.parameters[name] = tensor.clone() if number else tensor.contiguous()  # layers share no memory


def _hint(name: str, shapes: Shapes, result: Conversion) -> str:
    """The parameter that was probably meant, among those that have no value yet; for the first problems only."""
    if len(result.problems) >= _MOST_HINTS:
        return ""
    hint = nearest(name, [known for known in shapes if known not in result.parameters])
    return f"; {hint}" if hint else ""


def _sort_out(
    name: str,
    rules: list[TensorRule],
    names: TensorNames,
    stored: Mapping[str, Tensor],
    file_names: Mapping[str, str],
    shapes: Shapes,
    result: Conversion,
) -> None:
    """Note a tensor that no rule reads as unused, or as a problem."""
    file_name, original = file_names[name], names.tied.get(name)
    constant = next((one for one in names.constants if name in one.names(shapes)), None)
    matching = _matching(rules, name)
    if original is not None and original in file_names:
        if not torch.equal(stored[file_name], stored[file_names[original]]):
            result.problems.append(f"{file_name}: differs from {file_names[original]}, but the family ties the two")
    elif constant is not None:
        tensor = stored[file_name]
        if tuple(tensor.shape) != constant.shape or not torch.all(tensor == constant.value):
            reason = f"must be {constant.value:g} everywhere, of shape {constant.shape}; it is no parameter"
            result.problems.append(f"{file_name}: {reason}")
    elif names.computes(name):
        return
    elif names.ignores(name):
        result.unused.append(file_name)
    elif matching:
        rule, match = min(matching, key=lambda pair: (pair[0].generation, -len(pair[0].source.text)))
        target = rule.targets[0].text if rule.places(match.indices, match.suffix, shapes) == [] else None
        target = target or rule.targets[0].name(match.indices, match.suffix)
        reason = f"is {target} by the rule at {rule.mark}, but the model has no such parameter"
        result.problems.append(f"{file_name}: {reason}{_hint(target, shapes, result)}")
    else:
        result.problems.append(f"{file_name}: no rule of the family reads this tensor")


def _fill_missing(rules: list[TensorRule], shapes: Shapes, result: Conversion) -> None:
    """Fill parameters that are not stored with the ``otherwise`` value of their rule, if it has one."""
    for name, shape in shapes.items():
        if name in result.parameters or name in result.refused:
            continue
        found = [rule for rule, _, _ in _writing(rules, name)]
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
        rules: of the family; if several write the same parameter, the family's own is used, then the longest.
        parameters: of the model, by name.

    Raises:
        ValueError: no rule writes some parameters, or layers differ that share a stored tensor.
    """
    uses: dict[RuleUse, None] = {}
    missing: list[str] = []
    for name in parameters:
        found = _rule_for(rules, name, parameters)
        if found is None:
            missing.append(name + _needed_too(rules, name, parameters))
        else:
            rule, match = found
            stored = tuple(sorted((key, value) for key, value in match.indices.items() if key in rule.source.indices))
            uses[RuleUse(rule, stored, match.suffix)] = None
    if missing:
        raise ValueError(f"no rule of the family writes {', '.join(missing)}")
    return {name: tensor for use in uses for name, tensor in _tensors(use, parameters)}


def constants_from_parameters(
    constants: Iterable[ConstantTensor], parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of a folder that have one value everywhere, in the dtype of the first parameter."""
    dtype = next(iter(parameters.values())).dtype
    return {
        name: torch.full(constant.shape, constant.value, dtype=dtype)
        for constant in constants
        for name in constant.names(parameters)
    }


def _rule_for(
    rules: list[TensorRule], name: str, parameters: Mapping[str, Tensor]
) -> tuple[TensorRule, NameMatch] | None:
    """The rule that writes a parameter: the family's own before inherited ones, then the longest pattern.

    A rule that needs another parameter, which the model does not have, writes none.
    """
    found = [
        (rule, target, match)
        for rule, target, match in _writing(rules, name)
        if all(other.name(match.indices, match.suffix) in parameters for other in rule.targets)
    ]
    best = min(found, key=lambda item: (item[0].generation, -len(item[1].text)), default=None)
    return None if best is None else (best[0], best[2])


def _needed_too(rules: list[TensorRule], name: str, parameters: Mapping[str, Tensor]) -> str:
    """Which parameter a rule for this one needs too, although the model does not have it; empty: there is no rule."""
    for rule, _, match in _writing(rules, name):
        for other in (target.name(match.indices, match.suffix) for target in rule.targets):
            if other not in parameters:
                return f" (the rule at {rule.mark} needs {other} too, which the model does not have)"
    return ""


def _writing(rules: list[TensorRule], name: str) -> list[tuple[TensorRule, NamePattern, NameMatch]]:
    """The rules that have a parameter among their targets, with the target."""
    found = ((rule, target, target.match(name)) for rule in rules for target in rule.targets)
    return [(rule, target, match) for rule, target, match in found if match and rule.applies(match.indices)]


def _tensors(use: RuleUse, parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    rule, indices = use.rule, dict(use.indices)
    first, *others = _targets(use, parameters)
    for left, right in ((left, right) for other in others for left, right in zip(first, other, strict=True)):
        if not torch.equal(parameters[left], parameters[right]):
            raise ValueError(f"{rule.source} is one tensor for all layers, but {left} and {right} differ")
    for index, tensor in use.rule.tensors([parameters[target] for target in first]):
        stacked = {} if rule.stacked_index is None else {rule.stacked_index: index}
        yield rule.source.name(indices | stacked, use.suffix), tensor.contiguous()
