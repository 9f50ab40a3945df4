"""Map each parameter of a new model to a parameter of the trained model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from blocks.base import Axis, Component, Stack
from blocks.models.base import Model


@dataclass(frozen=True)
class Match:
    """The source of one parameter.

    Attributes:
        old: name in the trained model; None: no source.
        words: why the source is not the parameter of the same name.
        elsewhere: the source had another meaning, as an embedding has that becomes a head.
    """

    old: str | None
    words: str = ""
    elsewhere: bool = False


def matches(new: Model, old: Model) -> Mapping[str, Match]:
    """The source of every parameter of ``new``, by name."""
    moved = _stack_sources(new, old)
    there = {name for name, _ in old.named_parameters()}
    return {name: _match(name, new, moved, there) for name, _ in new.named_parameters()}


def new_layers(new: Model, old: Model) -> list[str]:
    """Names of the layers of ``new`` without a source, in stacks that the old model also has."""
    return [name for name, (origin, _) in _stack_sources(new, old).items() if origin is None]


@dataclass(frozen=True)
class Declared:
    """The axes that a block declares for a parameter.

    Attributes:
        owner: name of the block.
        axes: as in :meth:`~blocks.base.Component.axes`.
    """

    owner: str
    axes: tuple[Axis | None, ...]


def declared(model: Model) -> Mapping[str, Declared]:
    """Declared axes of the parameters, by name; an outer block overrides the blocks inside it."""
    found: dict[str, Declared] = {}
    names = {name for name, _ in model.named_parameters()}
    for prefix, component in model.components():
        for leaf, axes in component.axes().items():
            name = joined(prefix, leaf)
            if name in names:
                found.setdefault(name, Declared(prefix, axes))
    return found


def joined(prefix: str, leaf: str) -> str:
    """Join a prefix, which may be empty, and a name with a dot."""
    return f"{prefix}.{leaf}" if prefix else leaf


def ancestors(name: str) -> Iterator[str]:
    """The name itself, its parent, and so on up to the empty name of the model."""
    while name:
        yield name
        name = name.rpartition(".")[0]
    yield ""


def _stack_sources(new: Model, old: Model) -> dict[str, tuple[str | None, str]]:
    """Sources of the children of stacks: name -> (old name or None, words)."""
    there = dict(old.components())
    moved: dict[str, tuple[str | None, str]] = {}
    for prefix, stack in new.components():
        before = there.get(prefix)
        if not isinstance(stack, Stack) or not isinstance(before, Stack):
            continue
        sources = stack.weight_sources(before)
        shifted = [origin for name, origin in sources.items() if origin not in (None, name)]
        origins = [origin.rpartition(".")[2] for origin in sources.values() if origin is not None]
        words = f"of {before.depth // before.repeats} layers, {', '.join(origins)} are kept" if shifted else ""
        for name, origin in sources.items():
            moved[joined(prefix, name)] = (None, "") if origin is None else (joined(prefix, origin), words)
    return moved


def _match(name: str, new: Model, moved: Mapping[str, tuple[str | None, str]], there: set[str]) -> Match:
    for around in ancestors(name):
        if around in moved:
            origin, words = moved[around]
            if origin is None:
                return Match(None, "a new layer")
            known = Match(origin + name.removeprefix(around), words)
            break
    else:
        known = Match(name)
    assert known.old is not None
    return known if known.old in there else _elsewhere(name, known.old, new, there)


def _elsewhere(name: str, wanted: str, new: Model, there: set[str]) -> Match:
    """The source that a block around it declares in ``fallback_names``; ``wanted`` is its name in the old layers."""
    components: dict[str, Component] = dict(new.components())
    for around in ancestors(name):
        leaf = name.removeprefix(f"{around}." if around else "")
        origin = components[around].fallback_names().get(leaf) if around in components else None
        if origin is not None:
            old = joined(wanted.removesuffix(leaf).removesuffix("."), origin)
            if old in there:
                return Match(old, "" if around else f"from {origin}", elsewhere=True)
    block = wanted.removesuffix(".bias")
    beside = block != wanted and any(name.startswith(f"{block}.") for name in there)
    return Match(None, "a new bias" if beside else "new")
