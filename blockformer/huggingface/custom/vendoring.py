"""Copy the code of blocks into a folder that stands alone: flat files that import each other relatively.

Of a folder's code, transformers takes the files beside the modelling file that relative imports lead to, so
`blocks/attention/softmax.py` becomes `blocks_attention_softmax.py` and its imports follow.
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from blockformer.errors import UserError
from blockformer.training.metadata import installed_version

REGISTRY, STAND_IN = "registry", "blockformer.huggingface.custom.registry"
LIGHT = frozenset({"registry.capabilities", "registry.slots"})  # of the registry, what can be copied as it is
OURS = ("registry", "blocks", "blockformer")


@dataclass(frozen=True)
class Module:
    """A module that is to be copied: its name, its file, and whether it is a package's `__init__`."""

    name: str
    path: Path
    package: bool

    @property
    def flat(self) -> str:
        return flat(self.name)


class Copies:
    """The modules that some modules need, found through their imports.

    Args:
        roots: names of the modules to begin with; their top-level packages are copied as far as they are imported, all
            others have to be installed where the folder is used.

    Raises:
        UserError: a module has no source, or imports in a way that cannot be followed; it is named with its line.
    """

    def __init__(self, roots: Iterable[str]) -> None:
        roots = list(roots)
        self.owned = ({name.partition(".")[0] for name in roots} | {"blocks", REGISTRY}) - {"blockformer"}
        self.texts: dict[str, str] = {}
        self._offered = _defined(ast.parse(_module(STAND_IN).path.read_text(encoding="utf-8")))
        waiting = roots
        while waiting:
            name = waiting.pop()
            module = _module(name)
            if module.flat not in self.texts:
                waiting += self._copy(module)

    def write(self, folder: Path) -> None:
        """Write every copy."""
        for name, text in self.texts.items():
            (folder / f"{name}.py").write_text(text, encoding="utf-8")

    def _copy(self, module: Module) -> list[str]:
        """Keep a module's text with its imports rewritten; return the names of the modules that it needs."""
        source = module.path.read_text(encoding="utf-8")
        lines = source.splitlines(keepends=True)
        self.texts[module.flat] = ""
        needed: list[str] = []
        for node in _imports(ast.parse(source)):
            new = [text for text, name in self._rewritten(module, node) if not needed.append(name)]
            if new:
                margin = " " * node.col_offset
                begin, end = node.lineno - 1, node.end_lineno or node.lineno
                lines[begin:end] = ["".join(f"{margin}{text}\n" for text in new), *[""] * (end - begin - 1)]
        self.texts[module.flat] = _header(module.name) + "".join(lines)
        return needed

    def _rewritten(self, module: Module, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
        """What an import becomes, line by line, each with the module that it needs; nothing if it stays as it is."""
        place = f"{module.path}:{node.lineno}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in self.owned:
                    raise UserError(
                        f"{place}: `import {alias.name}` cannot be copied; say `from {alias.name} import ...`"
                    )
            return
        base = _absolute(module, node)
        top = base.partition(".")[0]
        if top not in self.owned:
            if top in OURS:
                raise UserError(f"{place}: {base} cannot be used without blockformer")
            return
        for alias in node.names:
            home = self._home(base, alias.name, place)
            yield f"from .{flat(home)} import {_named(alias)}", home

    def _home(self, base: str, name: str, place: str) -> str:
        """The module that a name is to be taken from.

        Raises:
            UserError: it is a module itself, or cannot be copied.
        """
        home = _handed_on(base, name)
        if home.partition(".")[0] == REGISTRY and home not in LIGHT:
            if name not in self._offered:
                raise UserError(f"{place}: {name} of the registry cannot be used without blockformer")
            return STAND_IN
        if name == "*" or _is_module(f"{home}.{name}"):
            whole = home if name == "*" else f"{home}.{name}"
            raise UserError(f"{place}: a whole module cannot be copied; import names from {whole}")
        return home


def flat(name: str) -> str:
    """The name of a module's copy."""
    return REGISTRY if name == STAND_IN else name.replace(".", "_")


def _module(name: str) -> Module:
    """A module's source.

    Raises:
        UserError: there is none.
    """
    loaded = sys.modules.get(name)
    file = getattr(loaded, "__file__", None)
    if file is None and (spec := find_spec(name)) is not None:
        file = spec.origin
    if file is None or Path(file).suffix != ".py" or not Path(file).is_file():
        raise UserError(f"the source of module {name} cannot be found, so its blocks cannot be copied")
    return Module(name, Path(file), Path(file).name == "__init__.py")


def _imports(tree: ast.Module) -> list[ast.Import | ast.ImportFrom]:
    """All imports, the last first, so that lines before it keep their numbers."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return sorted(found, key=lambda node: -node.lineno)


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    above = parts[: len(parts) - node.level + module.package]
    return ".".join([*above, *([node.module] if node.module else [])])


def _handed_on(base: str, name: str) -> str:
    """Where a name comes from: our packages themselves only hand on, and importing them registers all blocks."""
    if base not in OURS:
        return base
    for node in ast.parse(_module(base).path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            return node.module or base
    return base


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _named(alias: ast.alias) -> str:
    return alias.name if alias.asname is None else f"{alias.name} as {alias.asname}"


def _defined(tree: ast.Module) -> set[str]:
    """The names that a module defines at its top."""
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
    known = name.partition(".")[0] in OURS
    origin = f" of Blockformer {installed_version()} (Apache-2.0)" if known else ""
    return f"# Copied from {name}{origin} by `blockformer export --custom`; imports are changed, the rest is not.\n"
