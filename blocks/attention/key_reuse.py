"""Keys and values of one layer that later layers attend to, too."""

from collections.abc import Hashable, Iterable, Iterator
from typing import Protocol, cast, runtime_checkable

from torch import Tensor, nn

from blocks.base import Context


@runtime_checkable
class Reusing(Protocol):
    """A mixer that attends to its own keys and values, or to those of an earlier layer.

    Attributes:
        reuse_kv: whether to those of an earlier layer.
        form: equal for mixers of which one can attend to the keys and values of the other.
    """

    reuse_kv: bool

    @property
    def form(self) -> Hashable: ...


def keep(context: Context, layer: int, form: Hashable, k: Tensor, v: Tensor) -> None:
    """Keep the keys (B, G, S, K) and values (B, G, S, V) of a layer, if later layers attend to them."""
    if layer in context.sources:
        context.shared[_key(layer, form)] = k, v


def reused(context: Context, layer: int, form: Hashable) -> tuple[Tensor, Tensor]:
    """The keys and values of the nearest layer before ``layer`` that has kept some of this form.

    With activation checkpointing a layer is computed again after all others: it finds what it needs by its place.

    Raises:
        ValueError: there is none.
    """
    for earlier in range(layer - 1, -1, -1):
        if _key(earlier, form) in context.shared:
            return cast("tuple[Tensor, Tensor]", context.shared[_key(earlier, form)])
    raise ValueError(f"layer {layer} attends to the keys and values of an earlier layer, but none has kept them")


def sources_of(layers: Iterable[nn.Module]) -> frozenset[int]:
    """The indices of the layers whose keys and values later ones attend to.

    Raises:
        ValueError: a layer attends to those of an earlier one, but none has any of the same form, or
            the nearest that has some has them twice.
    """
    owners: dict[Hashable, int] = {}
    found, several = set[int](), list[set[Hashable]]()
    for index, layer in enumerate(layers):
        mixers = list(_reusing(layer))
        for mixer in mixers:
            if mixer.reuse_kv and mixer.form not in owners:
                raise ValueError(
                    f"layer {index} has reuse_kv, but no layer before it has keys and values of its own with the same "
                    "kv_heads, head_dim, value_dim, window, chunk and rotary positions; make them equal"
                )
            if mixer.reuse_kv and mixer.form in several[owners[mixer.form]]:
                raise ValueError(
                    f"layer {index} has reuse_kv, but layer {owners[mixer.form]} has several mixers with such keys and "
                    "values; give them different heads or windows"
                )
            if mixer.reuse_kv:
                found.add(owners[mixer.form])
        own = [mixer.form for mixer in mixers if not mixer.reuse_kv]
        owners |= dict.fromkeys(own, index)
        several.append({form for form in own if own.count(form) > 1})
    return frozenset(found)


def _reusing(layer: nn.Module) -> Iterator[Reusing]:
    return (part for part in layer.modules() if isinstance(part, Reusing))


def _key(layer: int, form: Hashable) -> Hashable:
    return "keys and values", layer, form
