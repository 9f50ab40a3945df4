"""A block's settings on one line."""

from registry import Spec
from registry.text import as_yaml


def settings(spec: Spec | None) -> str:
    """The parameters that say which block it is, without those that are off, or a word that is the default."""
    if spec is None:
        return ""
    known = spec.entry.parameters
    own = (
        (known[key], value) for key, value in spec.params if value and not known[key].slot and not known[key].runtime
    )
    return ", ".join(
        f"{p.name} {as_yaml(value)}" for p, value in own if value != p.default or not isinstance(value, str)
    )


def named(spec: Spec) -> str:
    """A block's name, with its settings in brackets if there is something to say."""
    said = settings(spec)
    return f"{spec.entry.name} ({said})" if said else spec.entry.name
