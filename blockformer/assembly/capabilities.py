"""Which blocks of a model cannot do what data or a trainer asks of all of them."""

from collections.abc import Iterator

from blocks.base import Component, Mixer, Stack
from registry import Ability, Place, Recipe, spec_of
from registry.diagnosis import alternatives
from registry.strict_yaml import dotted


def lacking(recipe: Recipe, model: Component, ability: Ability) -> str:
    """What to say about the blocks of ``model`` that lack an ability, with what could stand there; nothing if none do.

    Args:
        recipe: what the model was built from.
        model: built by :func:`assembly.check` or :func:`assembly.build` from that recipe.
        ability: a field of :class:`registry.Capabilities`.
    """
    paths = {id(spec): path for path, spec in recipe.spec.walk()}
    found: dict[str, str] = {}
    for _, component in model.components():
        spec = spec_of(component)
        if spec is None or getattr(component.capabilities, ability):
            continue
        slot, place = spec.entry.slot, dotted(paths.get(id(spec), ()))
        stands = set[Place]() if component.site is None else {component.site.place}
        instead = alternatives(
            slot,
            lambda block, stands=stands: getattr(block.capabilities, ability) and stands <= block.capabilities.places,
        )
        found[place] = f"{slot} {spec.entry.name!r} at {place} ({instead})"
    return " and ".join(found.values())


def remarks(recipe: Recipe, model: Component) -> Iterator[str]:
    """What a recipe may say, but seldom means: positions that are told twice, or not at all."""
    told = {"input_positions": dict[str, str](), "stack": dict[str, str](), "mixer": dict[str, str]()}
    paths = {id(spec): path for path, spec in recipe.spec.walk()}
    for name, component in model.components():
        spec = spec_of(component)
        if spec is None:
            continue
        key = dotted(paths.get(id(spec), (name,)))
        if spec.entry.slot == "input_positions" and spec.entry.name != "none":
            told["input_positions"][key] = spec.entry.name
        elif component.capabilities.needs:
            told["stack" if name.count(".") == 1 else "mixer"][key] = spec.entry.name
    if not any(told.values()):
        yield from _unordered(model)
    kinds = [found for found in told.values() if found]
    if len(kinds) > 1:
        said = " and ".join(f"{name} at {key}" for found in kinds for key, name in found.items())
        yield f"positions are told in more than one way: {said}; say none for those that are not meant"


def _unordered(model: Component) -> Iterator[str]:
    """Stacks that see a text as a bag of tokens: not even a causal mask tells which comes first."""
    for name, stack in model.components():
        if not isinstance(stack, Stack) or stack.site is None or stack.site.causal:
            continue
        mixers = [component for _, component in stack.components() if isinstance(component, Mixer)]
        if mixers and not any(mixer.capabilities.ordered for mixer in mixers):
            yield f"nothing in {name} tells the order of tokens: a shuffled text gives the same, shuffled"
