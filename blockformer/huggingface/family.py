"""Family files: each maps the config and the tensors of one published architecture to a recipe and its parameters."""

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher, get_close_matches
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path
from typing import Any, cast

from blockformer.huggingface.errors import HuggingFaceError
from blockformer.huggingface.expression import items, names, parse
from blockformer.huggingface.family_file import (
    ANY,
    Template,
    builtin_families,
    checked_expressions,
    read_family,
    templates,
)
from registry import Mark
from registry.errors import nearest, quoted
from registry.strict_yaml import Map

_FEW_KEYS = 2  # model_type and architectures
_PREDEFINED = frozenset({"layer", "depth", "tensors", "recipe", "layers"})  # names that are not config keys


class Family:
    """A family file, merged with the files that it extends, and checked.

    Args:
        name: for messages.
        path: the file.
        tree: its content, merged with that of the files that it extends.
        files: its file, that of the family that it extends, and so on.

    Raises:
        HuggingFaceError: sections or expressions are wrong; the error lists all of them.
    """

    def __init__(self, name: str, path: Path, tree: Map, files: tuple[Path, ...]) -> None:
        self.name, self.path, self.tree = name, path, tree
        self.bases = tuple(file.stem for file in files[1:])
        self._files = [str(file) for file in files]
        self.templates: dict[str, Template] = dict(templates(self.section("let")))
        self._expressions = [parse(text) for text in checked_expressions(tree, self.templates)]

    def section(self, name: str) -> Map:
        """A section that is a mapping; empty if the file does not have it."""
        return cast("Map", self.tree.get(name) or Map(mark=Mark(str(self.path))))

    def list_section(self, name: str) -> list[str]:
        """A section that is a list; empty if the file does not have it."""
        return list(cast("Sequence[str]", self.tree.get(name) or ()))

    @property
    def about(self) -> str:
        """Name of the architecture, in one line."""
        return str(self.tree.get("about", ""))

    @property
    def reference(self) -> str:
        """The implementation of attention in transformers that models of the family are compared with."""
        return str(self.tree.get("reference", "eager"))

    @property
    def model_types(self) -> list[str]:
        """The values of ``model_type`` that the family supports; empty if it exists only to be extended."""
        return as_list(self.section("match").get("model_type"))

    @property
    def architectures(self) -> list[str]:
        """The transformers classes that the family supports."""
        return as_list(self.section("match").get("architectures"))

    def ignores(self, key: str) -> bool:
        """Whether ``ignore`` lists a config key, which then does not affect the logits."""
        return any(fnmatchcase(key, pattern) for pattern in self.list_section("ignore"))

    def generation(self, mark: Mark) -> int:
        """0 for what the file itself says, 1 for what it inherits from the family that it extends, and so on."""
        return self._files.index(mark.source) if mark.source in self._files else len(self._files)

    @cached_property
    def keys(self) -> set[str]:
        """Every config key that an expression reads, or that is fixed; ``a.b`` is key b of the mapping a."""
        return self.mentioned | set(self.section("fixed"))

    @cached_property
    def inner_keys(self) -> set[str]:
        """Every key of a mapping that an expression reads, whichever mapping it is."""
        return {key for tree in self._expressions for key in items(tree)}

    @cached_property
    def mentioned(self) -> set[str]:
        """Every config key that an expression reads."""
        parameters = {parameter for template in self.templates.values() for parameter in template.parameters}
        return {name for tree in self._expressions for name in names(tree)} - parameters - _PREDEFINED

    def default(self, key: str) -> Any:
        """The default of a config key as it is written; a key with one fixed value has that."""
        defaults, fixed = self.section("defaults"), self.section("fixed").get(key)
        if key in defaults:
            return defaults[key]
        return None if fixed == ANY else (as_list(fixed) or [None])[0]

    def has_default(self, key: str) -> bool:
        """Whether a config may omit a key."""
        return key in self.section("defaults") or self.section("fixed").get(key, ANY) != ANY

    def distance(self, config: Mapping[str, Any]) -> int:
        """Number of keys that either the config or the family has alone; few for a similar architecture."""
        given = {key for key in config if not self.ignores(key)} - {"model_type"}
        needed = {key for key in self.mentioned if not self.has_default(key)} - set(self.templates)
        return len(given - self.keys - set(self.section("defaults"))) + len(needed - set(config))


def as_list(value: Any) -> list[Any]:
    """A list unchanged, None as an empty list, any other value as a list of one."""
    if value is None:
        return []
    return list(cast("Sequence[Any]", value)) if isinstance(value, list) else [value]


def families() -> list[Family]:
    """The built-in families that support at least one ``model_type``."""
    return [family for name in builtin_families() if (family := load_family(name)).model_types]


def load_family(source: str | Path) -> Family:
    """Load a family by its file or, if it is built in, by its name.

    Raises:
        HuggingFaceError: there is no such family, or its file is wrong; the error lists all problems.
    """
    known = builtin_families()
    if str(source) in known:
        return _load_builtin(str(source))
    path = Path(source)
    if not path.is_file():
        hint = nearest(str(source), known) or f"known: {', '.join(known)}"
        raise HuggingFaceError.at(str(source), f"neither a file nor the name of a built-in family; {hint}")
    return Family(path.stem, path, *read_family(path))


@cache
def _load_builtin(name: str) -> Family:
    path = builtin_families()[name]
    return Family(name, path, *read_family(path))


def family_of(config: Mapping[str, Any], file: Path, candidates: list[Family] | None = None) -> Family:
    """The family that supports the ``model_type`` and the ``architectures`` of a config.

    Args:
        config: the content of config.json.
        file: its path, for messages.
        candidates: families to choose from; None: the built-in ones.

    Raises:
        HuggingFaceError: no family supports them; the message names the nearest.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise HuggingFaceError.at(file, f"must be the name of an architecture, not {quoted(model_type)}", "model_type")
    known = _supporting(model_type) or families() if candidates is None else candidates
    if without := [family for family in known if not family.model_types]:
        match = f"match: {{model_type: {model_type}, architectures: {', '.join(as_list(config.get('architectures')))}}}"
        message = f"family {without[0].name!r} has no section 'match', which is not inherited; add `{match}`"
        raise HuggingFaceError.at(without[0].path, message)
    matching = [family for family in known if model_type in family.model_types]
    if not matching:
        close = _nearest(config, model_type, known)
        hint = f"nearest: {', '.join(close)}; " if close else ""
        message = f"no family supports model_type {model_type!r}; {hint}to add one, see docs/add-a-family.md"
        raise HuggingFaceError.at(file, message)
    classes = as_list(config.get("architectures"))
    if not all(isinstance(name, str) for name in classes):
        raise HuggingFaceError.at(file, f"must be a list of names, not {quoted(classes)}", "architectures")
    for family in matching:
        if not classes or set(classes) & set(family.architectures):
            return family
    supported = ", ".join(name for family in matching for name in family.architectures)
    message = f"architecture {', '.join(classes)} is not supported; model_type {model_type!r} supports {supported}"
    raise HuggingFaceError.at(file, message)


def _supporting(model_type: str) -> list[Family]:
    """The built-in families that support a ``model_type``, without reading all others, which takes a second."""
    mentioning = [name for name, path in builtin_families().items() if model_type in path.read_text(encoding="utf-8")]
    return [family for family in map(load_family, mentioning) if model_type in family.model_types]


def _nearest(config: Mapping[str, Any], model_type: str, known: list[Family]) -> list[str]:
    """The three model types whose configs have the most similar keys; by their names if the config has hardly any."""
    if len(config) <= _FEW_KEYS:
        return get_close_matches(
            model_type[:100], sorted({name for one in known for name in one.model_types}), cutoff=0.4
        )

    def distance(family: Family) -> tuple[int, int, float]:
        return family.distance(config), len(family.bases), -SequenceMatcher(None, model_type[:100], family.name).ratio()

    return list(dict.fromkeys(family.model_types[0] for family in sorted(known, key=distance)))[:3]
