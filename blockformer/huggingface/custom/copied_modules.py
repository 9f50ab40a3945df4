"""Copy the modules of blocks into an exported folder: flat files that import each other relatively.

transformers loads the modeling file of a folder and the files beside it that this imports relatively. Therefore
``blocks/attention/softmax.py`` becomes ``blocks_attention_softmax.py``, and its imports are rewritten.
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec, resolve_name
from pathlib import Path

from blockformer.errors import UserError
from blockformer.files import write_text
from blockformer.huggingface.custom.operator_names import SourceFile, check_operator_names
from blockformer.training.metadata import installed_version

_REGISTRY, _STUB = "registry", "blockformer.huggingface.custom.registry_stub"
_COPIED_REGISTRY = frozenset({"registry.capabilities", "registry.slots"})  # copied; the stub replaces all others
_OURS = (_REGISTRY, "blocks", "blockformer")


@dataclass(frozen=True)
class Module:
    """A module to copy.

    Attributes:
        name: its dotted name.
        path: its file.
        package: the package against which its relative imports are resolved.
    """

    name: str
    path: Path
    package: str


class CopiedModules:
    """Some modules and all that they import from the same top-level packages, with rewritten imports.

    Args:
        roots: dotted names of the modules to begin with. Packages other than theirs and ours are not copied; they have
            to be installed where the folder is used.

    Attributes:
        packages: the top-level packages whose modules are copied.
        texts: the text of each copy, by its name.

    Raises:
        UserError: a module has no source, an import cannot be rewritten, or a custom operator of torch would have the
            same name in the copy; the message has the file and line.
    """

    def __init__(self, roots: Iterable[str]) -> None:
        pending = list(roots)
        self.packages = ({name.partition(".")[0] for name in pending} | {"blocks", _REGISTRY}) - {"blockformer"}
        self.texts: dict[str, str] = {}
        self._files: dict[str, SourceFile] = {}
        self._stub_names = _defined_names(ast.parse(_find_module(_STUB).path.read_text(encoding="utf-8")))
        while pending:
            name = pending.pop()
            if copied_name(name) not in self.texts:
                pending += self._copy(_find_module(name))
        check_operator_names(self._files)

    def write(self, folder: Path) -> None:
        """Write every copy as a file."""
        for name, text in self.texts.items():
            write_text(folder / f"{name}.py", text)

    def _copy(self, module: Module) -> list[str]:
        """Store the text of a module with rewritten imports; return the modules that it imports."""
        source = module.path.read_text(encoding="utf-8")
        lines = source.splitlines(keepends=True)
        file = self._files[module.name] = SourceFile(module.path, ast.parse(source))
        imported: list[str] = []
        for node in _imports(file.tree):
            new: list[str] = []
            for alias, name in self._rewrite(module, node):
                file.copied[alias.asname or alias.name] = name, alias.name
                new.append(f"from .{copied_name(name)} import {ast.unparse(alias)}")
                imported.append(name)
            if new:
                indent = " " * node.col_offset
                begin, end = node.lineno - 1, node.end_lineno or node.lineno
                lines[begin:end] = ["".join(f"{indent}{text}\n" for text in new), *[""] * (end - begin - 1)]
        self.texts[copied_name(module.name)] = _header(module.name) + "".join(lines)
        return imported

    def _rewrite(self, module: Module, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[ast.alias, str]]:
        """The names that an import imports, each with its module in the copy; none if the import remains as it is."""
        place = f"{module.path}:{node.lineno}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in self.packages:
                    message = f"`import {alias.name}` cannot be copied; write `from {alias.name} import ...`"
                    raise UserError(f"{place}: {message}")
            return
        base = _absolute_name(module, node, place)
        package = base.partition(".")[0]
        if package not in self.packages:
            if package in _OURS:
                raise UserError(
                    f"{place}: {base} is not available in an exported model; import only blocks and registry"
                )
            return
        for alias in node.names:
            yield alias, self._source_module(base, alias.name, place)

    def _source_module(self, base: str, name: str, place: str) -> str:
        """The module from which a name is imported in the copy.

        Raises:
            UserError: the name is a module, or is not available in an exported model.
        """
        source = _defining_module(base, name)
        if source.partition(".")[0] == _REGISTRY and source not in _COPIED_REGISTRY:
            if name not in self._stub_names:
                raise UserError(f"{place}: {name} of the registry is not available in an exported model")
            return _STUB
        if name == "*" or _is_module(f"{source}.{name}"):
            whole = source if name == "*" else f"{source}.{name}"
            raise UserError(f"{place}: a whole module cannot be copied; import names from {whole}")
        return source


def copied_name(module: str) -> str:
    """The name of the copy of a module."""
    return _REGISTRY if module == _STUB else module.replace(".", "_")


def _find_module(name: str) -> Module:
    """The source of a module.

    Raises:
        UserError: it cannot be found.
    """
    loaded = sys.modules.get(name)
    file = getattr(loaded, "__file__", None)
    if file is None and (spec := find_spec(name)) is not None:
        file = spec.origin
    if file is None or Path(file).suffix != ".py" or not Path(file).is_file():
        raise UserError(f"the source of module {name} cannot be found, so its blocks cannot be copied")
    is_package = Path(file).name == "__init__.py"
    return Module(name, Path(file), name if is_package else name.rpartition(".")[0])


def _imports(tree: ast.Module) -> list[ast.Import | ast.ImportFrom]:
    """All imports from the last to the first, so that rewriting one does not change the line numbers of the next."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return sorted(found, key=lambda node: -node.lineno)


def _absolute_name(module: Module, node: ast.ImportFrom, place: str) -> str:
    """The module that ``from ... import`` names.

    Raises:
        UserError: a relative import goes beyond the top-level package.
    """
    relative = "." * node.level + (node.module or "")
    try:
        return resolve_name(relative, module.package)
    except ImportError:
        raise UserError(f"{place}: `from {relative} import ...` goes beyond the top-level package") from None


def _defining_module(base: str, name: str) -> str:
    """The module that defines a name.

    Our top-level packages only re-export names, and importing them registers all blocks, so they are not copied.
    """
    if base not in _OURS:
        return base
    for node in ast.parse(_find_module(base).path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            return node.module or base
    return base


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _defined_names(tree: ast.Module) -> set[str]:
    """The names that a module defines or imports at the top level."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    return names


def _header(name: str) -> str:
    ours = name.partition(".")[0] in _OURS
    origin = f" of Blockformer {installed_version()} (Apache-2.0)" if ours else ""
    return f"# Copied from {name}{origin} by `blockformer export --custom`; only imports are changed.\n"
