"""Which blocks of a built model lack an ability, and whether its positions are configured once."""

from collections.abc import Iterator, Mapping
from typing import Any

from blocks.base import Component, Mixer, Stack
from registry import Ability, Place, Spec, spec_of
from registry.diagnosis import alternatives
from registry.merge import dotted


def blocks_by_key(model: Component) -> Iterator[tuple[str, Component, Spec[Any]]]:
    """Each block that was built from a recipe: its dotted key there, the block, and its Spec.

    Layers that were built from the same key follow each other with that key. A block inside a model that was itself
    constructed by hand has the name of its module instead of a key.
    """
    root = spec_of(model)
    keys = {} if root is None else {id(spec): dotted(path) for path, spec in root.walk()}
    for name, component in model.components():
        if (spec := spec_of(component)) is not None:
            yield keys.get(id(spec), name), component, spec


def blocks_without(model: Component, ability: Ability) -> str:
    """Name the blocks of ``model`` that lack an ability, and what to choose instead; empty if there are none.

    Args:
        model: built from a recipe.
        ability: a field of :class:`registry.Capabilities`.
    """
    found: dict[str, str] = {}
    for key, component, spec in blocks_by_key(model):
        if getattr(component.capabilities, ability):
            continue
        slot = spec.entry.slot
        places = set[Place]() if component.site is None else {component.site.place}
        instead = alternatives(
            slot,
            lambda block, places=places: getattr(block.capabilities, ability) and places <= block.capabilities.places,
        )
        found[key] = f"{slot} {spec.entry.name!r} at {key} ({instead})"
    return " and ".join(found.values())


def position_warnings(model: Component) -> Iterator[str]:
    """Warn of a model with several position encodings, or of a bidirectional stack with none."""
    found = {"input_positions": dict[str, str](), "stack": dict[str, str](), "mixer": dict[str, str]()}
    names = dict(model.components())
    modules = {component: name for name, component in names.items()}
    for key, component, spec in blocks_by_key(model):
        if spec.entry.slot == "input_positions" and spec.entry.name != "none":
            found["input_positions"][key] = spec.entry.name
        elif component.capabilities.needs:
            of_stack = isinstance(_owner(names, modules[component]), Stack)
            found["stack" if of_stack else "mixer"][key] = spec.entry.name
    kinds = [blocks for blocks in found.values() if blocks]
    if not kinds:
        yield from _unordered_stacks(model)
    if len(kinds) > 1:
        named = " and ".join(f"{name} at {key}" for blocks in kinds for key, name in blocks.items())
        yield f"several position encodings are configured: {named}; set those that are not meant to none"


def _owner(components: Mapping[str, Component], name: str) -> Component:
    """The component that directly contains the one at this module path."""
    name = name.rpartition(".")[0]
    while name not in components:
        name = name.rpartition(".")[0]
    return components[name]


def _unordered_stacks(model: Component) -> Iterator[str]:
    """Bidirectional stacks whose output for shuffled tokens is the shuffled output; a causal mask gives an order."""
    for name, stack in model.components():
        if not isinstance(stack, Stack) or stack.site is None or stack.site.causal:
            continue
        mixers = [component for _, component in stack.components() if isinstance(component, Mixer)]
        if mixers and not any(mixer.capabilities.ordered for mixer in mixers):
            yield f"{name} has no position encoding: its output does not depend on the order of the tokens"
