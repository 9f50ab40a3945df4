"""Names of stored tensors besides the rules: ``tied``, ``unused``, ``computed`` and ``leaves`` of a family."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from blockformer.huggingface.errors import HuggingFaceError
from blockformer.huggingface.name_pattern import substituted
from blockformer.huggingface.template import OMITTED, TemplateContext
from blockformer.huggingface.tensor_rules import ConstantTensor, constant_tensors
from registry import Mark
from registry.errors import quoted


@dataclass(frozen=True)
class TensorNames:
    """Names of tensors in a family file besides its rules.

    A stored name is respelled by ``leaves`` first; rules, ``tied``, ``constants``, ``computed`` and ``unused`` apply
    to the new name, in this order: a tensor that a rule reads is not unused, whatever pattern matches it.

    Attributes:
        tied: tensors that repeat another tensor, and the name of that.
        unused: patterns of tensors that the model does not use; the import keeps them for an export.
        computed: patterns of tensors that the original computes from its config; the import drops them.
        leaves: alternative spellings of the last part of a name.
        constants: tensors that have one value everywhere.
    """

    tied: Mapping[str, str]
    unused: list[str]
    computed: list[str]
    leaves: Mapping[str, str]
    constants: list[ConstantTensor]

    def respelled(self, name: str) -> str:
        """The name that the rules use for a stored tensor."""
        parent, dot, leaf = name.rpartition(".")
        return parent + dot + self.leaves.get(leaf, leaf)

    def ignores(self, name: str) -> bool:
        """Whether the model does not use a tensor, by its respelled name."""
        return any(fnmatchcase(name, pattern) for pattern in self.unused)

    def computes(self, name: str) -> bool:
        """Whether the original computes a tensor from its config, by its respelled name."""
        return any(fnmatchcase(name, pattern) for pattern in self.computed)


def tensor_names(context: TemplateContext) -> TensorNames:
    """The tied, unused, respelled and constant names of a family, for one config.

    Raises:
        HuggingFaceError: an entry is malformed, or a rule has a name that ``leaves`` respells.
    """
    family = context.family
    tied = family.section("tied")
    rendered = {
        substituted(context, name, tied.marks[name]): str(value)
        for name in tied
        if (value := context.render(tied[name], f"tied.{name}", tied.marks[name])) not in (None, OMITTED)
    }
    mark = Mark(str(family.path))

    def patterns(section: str) -> list[str]:
        return [substituted(context, one, family.tree.marks.get(section, mark)) for one in family.list_section(section)]

    leaves = _leaves(context)
    return TensorNames(
        {name: substituted(context, value, mark) for name, value in rendered.items()},
        patterns("unused"),
        patterns("computed"),
        leaves,
        constant_tensors(context),
    )


def _leaves(context: TemplateContext) -> dict[str, str]:
    """The spellings that are not removed by a null; no rule may use one of them."""
    section = context.family.section("leaves")
    for leaf, spelling in section.items():
        if spelling is not None and not isinstance(spelling, str):
            message = f"must be the usual spelling, or null to remove this one, not {quoted(spelling)}"
            raise HuggingFaceError.at(section.marks[leaf], message, f"leaves.{leaf}")
    leaves = {leaf: spelling for leaf, spelling in section.items() if spelling is not None}
    rules = context.family.section("tensors")
    for name in rules:
        leaf = name.rpartition(".")[2]
        if leaf in leaves and rules[name] is not None:
            message = (
                f"'leaves' respells {leaf} as {leaves[leaf]}, so that no tensor has this name; to keep it, add "
                f"`leaves: {{{leaf}: null}}`"
            )
            raise HuggingFaceError.at(rules.marks[name], message, f"tensors.{name}")
    return leaves
