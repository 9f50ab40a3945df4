"""The families that are installed, and the one that a folder belongs to."""

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from blockformer.huggingface.errors import InterchangeError
from blockformer.huggingface.family import LISTS, Family
from registry import Mark
from registry.errors import nearest
from registry.strict_yaml import Map, Seq, read_yaml

FOLDER = Path(__file__).parent / "families"


def installed() -> dict[str, Path]:
    """The family files that come with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def load_family(source: str | Path) -> Family:
    """A family by its file or by the name of an installed one.

    Raises:
        InterchangeError: there is none, or something is wrong with it; all of it is named.
    """
    known = installed()
    if str(source) in known:
        return _installed(str(source))
    path = Path(source)
    if not path.is_file():
        hint = nearest(str(source), known) or f"known: {', '.join(known)}"
        raise InterchangeError.at(str(source), f"there is no such file, and no family of this name; {hint}")
    return Family(path.stem, path, *_with_base(path, ()))


@cache
def _installed(name: str) -> Family:
    path = installed()[name]
    return Family(name, path, *_with_base(path, ()))


def families() -> list[Family]:
    """Every installed family that reads some folder."""
    return [family for name in installed() if (family := load_family(name)).models]


def family_of(config: Mapping[str, Any], file: Path, candidates: list[Family] | None = None) -> Family:
    """The family that reads a folder with this config.

    Args:
        config: what its config.json says.
        file: where that stands.
        candidates: families to choose from; None: those installed.

    Raises:
        InterchangeError: there is none; one line says what it is and what is nearest.
    """
    known = families() if candidates is None else candidates
    model_type = str(config.get("model_type"))
    alike = [family for family in known if model_type in family.models]
    if not alike:
        models = sorted({model for family in known for model in family.models})
        close = get_close_matches(model_type, models, n=3, cutoff=0.4)
        hint = f"nearest: {', '.join(close)}; " if close else ""
        message = f"no family reads model_type {model_type!r}; {hint}to add one, see docs/add-a-family.md"
        raise InterchangeError.at(file, message)
    classes = [str(name) for name in config.get("architectures") or ()]
    for family in alike:
        if not classes or set(classes) & set(family.architectures):
            return family
    readable = [name for family in alike for name in family.architectures]
    raise InterchangeError.at(
        file, f"holds a {', '.join(classes)}, but of model_type {model_type!r} only {', '.join(readable)} can be read"
    )


def _with_base(path: Path, seen: tuple[Path, ...]) -> tuple[Map, tuple[str, ...]]:
    """A family file's tree, laid over that of the family which it extends, and the names of all such."""
    tree = read_yaml(path)
    if "extends" not in tree:
        return tree, ()
    base, mark = str(tree["extends"]), tree.marks["extends"]
    found = _base(path, base, mark)
    if found.resolve() in (*seen, path.resolve()):
        raise InterchangeError.at(mark, f"leads in a circle: {path.name} -> {found.name}", "extends")
    below, bases = _with_base(found, (*seen, path.resolve()))
    own = Map({key: value for key, value in tree.items() if key != "extends"}, tree.marks, tree.mark)
    for key in ("match", "about", "source"):  # a family that builds on another reads other folders
        below.pop(key, None)
    both = laid_over(below, own)
    for key in LISTS:
        if isinstance(first := below.get(key), Seq) and isinstance(second := own.get(key), Seq):
            both[key] = Seq([*first, *second], [*first.marks, *second.marks])
    if isinstance(rules := both.get("tensors"), Map) and "tensors" in own:  # its own rules come first when writing
        both["tensors"] = Map({**own["tensors"], **rules}, rules.marks, rules.mark)
    return both, (found.stem, *bases)


def _base(path: Path, name: str, mark: Mark) -> Path:
    beside = path.parent / (name if name.endswith(".yaml") else f"{name}.yaml")
    known = installed()
    if beside.is_file():
        return beside
    if name in known:
        return known[name]
    hint = nearest(name, known) or f"known: {', '.join(known)}"
    raise InterchangeError.at(mark, f"there is no family {name!r}; {hint}", "extends")


def laid_over(base: Any, change: Any) -> Any:
    """``change`` over ``base``, key by key; a block of another type and a condition begin afresh."""
    if not isinstance(base, Map) or not isinstance(change, Map):
        return change
    decided = any(key in tree for key in ("if", "switch") for tree in (base, change))
    if (decided and "switch" not in {*base} & {*change}) or base.get("type") != change.get("type", base.get("type")):
        return change
    both = Map(base, base.marks | change.marks, base.mark)
    for key, value in change.items():
        both[key] = laid_over(base[key], value) if key in base else value
    return both
