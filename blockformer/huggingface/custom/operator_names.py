"""Find custom operators of torch that would have the same name in an exported copy as in the original.

torch replaces an operator that is defined again, and models that use the first one then end in an internal error. The
name of an operator differs in a copy if it is made from ``__name__``, as ``blocks.base.operators.LIBRARY`` is.
"""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from blockformer.errors import UserError

NAMED_BY: Mapping[str, str] = {
    "torch.library.custom_op": "name",
    "torch.library.triton_op": "name",
    "torch.library.define": "qualname",
    "torch.library.Library": "ns",
}
"""The functions that define operators, with the name of their first parameter."""


@dataclass(eq=False)
class SourceFile:
    """A module to copy.

    Attributes:
        path: its file.
        tree: its parsed text.
        copied: local name -> module and name that it is imported from, for imports from modules that are copied too.
    """

    path: Path
    tree: ast.Module
    copied: dict[str, tuple[str, str]] = field(default_factory=dict)

    @cached_property
    def installed(self) -> dict[str, str]:
        """The dotted name of each imported name."""
        found: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    package = alias.name.partition(".")[0]
                    found[alias.asname or package] = alias.name if alias.asname else package
            elif isinstance(node, ast.ImportFrom):
                found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        return found

    @cached_property
    def bound(self) -> dict[str, list[ast.AST]]:
        """The values and definitions that each name stands for, in any scope."""
        found: dict[str, list[ast.AST]] = defaultdict(list)
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found[node.name].append(node)
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    for name in _names(target):
                        found[name].append(node.value)
        return found

    def operators(self) -> Iterator[tuple[ast.Call, str, ast.expr]]:
        """Each call that defines operators, with the function's dotted name and the argument that names them."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and (function := self._dotted(node.func)) in NAMED_BY:
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                name = node.args[0] if node.args else given.get(NAMED_BY[function])
                kind = node.args[1] if len(node.args) > 1 else given.get("kind")
                if name is not None and not (isinstance(kind, ast.Constant) and kind.value == "IMPL"):
                    yield node, function, name

    def _dotted(self, node: ast.expr) -> str:
        match node:
            case ast.Name(id=name):
                return self.installed.get(name, name)
            case ast.Attribute(value=value, attr=name):
                return f"{self._dotted(value)}.{name}"
            case _:
                return ""


def check_operator_names(files: Mapping[str, SourceFile]) -> None:
    """Check that each operator that the modules define has another name in a copy.

    Args:
        files: the modules, by their dotted name.

    Raises:
        UserError: an operator would have the same name; the message has the file and line.
    """
    for file in files.values():
        for call, function, name in file.operators():
            if not _differs(name, file, files, set()):
                short = function.rpartition(".")[2]
                raise UserError(
                    f"{file.path}:{call.lineno}: {short}({ast.unparse(name)}, ...): an operator of this name in the "
                    "copy would replace that of the original where both are loaded; make the name from LIBRARY of "
                    f"blocks.base.operators: {short}({_remedy(function, name)}, ...)"
                )


def _differs(value: ast.AST, file: SourceFile, files: Mapping[str, SourceFile], seen: set[tuple[Path, str]]) -> bool:
    """Whether a value is made from ``__name__``, also by way of other names."""
    for name in _names(value):
        if name == "__name__":
            return True
        if (file.path, name) in seen:
            continue
        seen.add((file.path, name))
        if any(_differs(one, file, files, seen) for one in file.bound.get(name, [])):
            return True
        module, there = file.copied.get(name, ("", ""))
        if module in files and _differs(ast.Name(there), files[module], files, seen):
            return True
    return False


def _names(value: ast.AST) -> Iterable[str]:
    return (node.id for node in ast.walk(value) if isinstance(node, ast.Name))


def _remedy(function: str, name: ast.expr) -> str:
    if function.endswith("Library"):
        return "LIBRARY"
    text = name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else ""
    return f'f"{{LIBRARY}}::{text.rpartition("::")[2] or "..."}"'
