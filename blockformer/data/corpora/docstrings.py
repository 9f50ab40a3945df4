"""`docstrings`: English about programming, from the documentation of Python and of installed packages.

A document is the documentation of one module, its docstrings in the order of the source, or one topic of the language
reference (`pydoc_data.topics`). Files are parsed and never imported. The text depends on the installed versions, which
a run logs with a hash; only runs with equal hashes have the same text.
"""

import ast
import gc
import hashlib
import platform
import sysconfig
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import metadata, util
from pathlib import Path
from pydoc_data import topics

from blockformer.data.corpora.corpus import Corpus, Source, cached_corpus, held_out
from blockformer.data.progress import stage
from blockformer.errors import DataError

PYTHON = "python"
DEFAULT = (PYTHON, "numpy", "lightning", "torchmetrics", "networkx", "sympy", "torch")
_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "__pycache__", "pydoc_data"}
_SHORTEST = 80  # characters; shorter docstrings repeat what the name says


def source(packages: Sequence[str] | None, max_bytes: int | None, shares: Mapping[str, float]) -> Source:
    """The documentation of packages.

    Args:
        packages: Import names, and "python" for the standard library and the language reference. None takes those
            of `DEFAULT` that are installed.
        max_bytes: Stop after the document that passes this many bytes of UTF-8. Packages are read in their order,
            the modules of a package in the order of the hashes of their paths, so that any part is a fair sample.
        shares: The share of documents for "validation" and for "test".

    Raises:
        DataError: A package is not installed, or has no documentation.
    """
    names = [name for name in DEFAULT if _folder(name)] if packages is None else list(dict.fromkeys(packages))
    if not names:
        raise DataError("docstrings: packages is empty; name packages, or leave it out")
    for name in names:
        if _folder(name) is None:
            raise DataError(f"docstrings: no package {name!r} is installed (packages are import names, or {PYTHON!r})")
    key = {"packages": [_identity(name) for name in names], "max_bytes": max_bytes, "shares": dict(shares), "format": 1}
    make = partial(_make, names, max_bytes, shares)
    return Source({"dataset": "docstrings", **key}, partial(cached_corpus, "docstrings", key, make))


def _make(names: Sequence[str], max_bytes: int | None, shares: Mapping[str, float]) -> Corpus:
    documents: list[str] = []
    seen: set[str] = set()
    size = 0
    with _no_cycles(), stage("reading", max_bytes) as reading:
        for document in _documents(names):
            new = [part for part in document if part not in seen]
            seen.update(new)
            if new:
                documents.append("\n\n".join(new))
                size += len(documents[-1].encode())
                reading.advance(len(documents[-1].encode()))
            if max_bytes is not None and size >= max_bytes:
                break
    if len(documents) < 3:
        raise DataError(f"docstrings: {', '.join(names)} hold too little documentation ({len(documents)} documents)")
    facts = {"dataset": "docstrings", "versions": {name: _version(name) for name in names}, "max_bytes": max_bytes}
    return Corpus(held_out(documents, shares, str), paired=False, facts=facts)


def _documents(names: Sequence[str]) -> Iterator[list[str]]:
    for name in names:
        if name == PYTHON:
            yield from ([text.strip()] for _, text in sorted(topics.topics.items()))
        yield from map(_docstrings, _files(name))


def _docstrings(file: Path) -> list[str]:
    """The docstrings of a file in the order of the source; none if it is not valid Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about invalid escapes in the file
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return []
    found = filter(None, map(ast.get_docstring, (tree, *_definitions(tree))))
    return [text.strip() for text in found if len(text) > _SHORTEST and _is_unicode(text)]


def _definitions(node: ast.AST) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Classes and functions below a node; expressions, most of a tree, are skipped."""
    for field in ("body", "handlers", "orelse", "finalbody"):
        for child in getattr(node, field, ()):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield child
            yield from _definitions(child)


@contextmanager
def _no_cycles() -> Iterator[None]:
    """Disable the garbage collector: syntax trees have no cycles, and walking them takes half the time of parsing."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _is_unicode(text: str) -> bool:
    """Whether a text can be encoded in UTF-8: a string literal may contain a lone surrogate."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _folder(name: str) -> Path | None:
    """The folder of a package's modules, found without importing it."""
    if name == PYTHON:
        return Path(sysconfig.get_paths()["stdlib"])
    try:
        spec = util.find_spec(name) if name.isidentifier() else None
    except ValueError:  # modules without a specification, such as __main__
        spec = None
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _files(name: str) -> list[Path]:
    """The modules of a package, in the order of the hashes of their paths, so that any part is a fair sample."""
    folder = _folder(name)
    assert folder is not None
    files = {file.relative_to(folder): file for file in folder.rglob("*.py")}
    chosen = [path for path in files if _SKIPPED.isdisjoint(path.parts)]
    return [files[path] for path in sorted(chosen, key=lambda path: hashlib.sha256(path.as_posix().encode()).digest())]


def _identity(name: str) -> tuple[str, str, str, int]:
    """Identifies a package's text without reading or listing its files."""
    folder = _folder(name)
    assert folder is not None
    return name, _version(name), str(folder), folder.stat().st_mtime_ns


def _version(name: str) -> str:
    if name == PYTHON:
        return platform.python_version()
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # the distribution has another name than the package
        distributions = metadata.packages_distributions().get(name)
        return metadata.version(distributions[0]) if distributions else "unknown"
