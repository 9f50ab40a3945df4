"""What every block is: a module that knows its site, its initial values and its cost."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Self, cast

from torch import nn

from blocks.base.axes import Axis
from blocks.base.site import Site
from registry import PLACES, Ability, Block, Cut, UnfitError


class Component(nn.Module, Block):
    """A block that is an ``nn.Module``.

    ``outputs`` names the child modules whose result goes straight into the residual stream, which some inits scale by
    depth; ``is_noop`` is True for a block that stands for nothing, so that its parent leaves the sublayer out.
    """

    outputs: ClassVar[tuple[str, ...]] = ()
    is_noop: ClassVar[bool] = False

    def __init__(self, site: Site | None = None) -> None:
        super().__init__()
        self.site = site
        if site is not None and (place := site.place) not in self.capabilities.places:
            raise UnfitError(f"does not {PLACES[place]}", lambda block: place in block.capabilities.places)

    @classmethod
    def placeholder(cls) -> Self:
        block = cls.__new__(cls)
        nn.Module.__init__(block)
        return block

    def constants(self) -> Mapping[str, float | Sequence[float]]:
        """Parameters that start at known values, by their name inside this block; all others are drawn by the init.

        A sequence stands along the last axis.
        """
        return {}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        """What stands along the axes of parameters, by their dotted name inside this block, for a warm start.

        None is an axis that a trained parameter must have in the same size, such as the model's width; so are all axes
        of parameters that are not named.
        """
        return {}

    def fallback_names(self) -> Mapping[str, str]:
        """Where else a checkpoint may have what a parameter stands for: its name here -> another name here."""
        return {}

    def shards(self) -> Mapping[str, Cut]:
        """As ``capabilities.shards``, of what there is with these parameters; nothing if it cannot be cut with them."""
        return {name: cut for name, cut in self.capabilities.shards.items() if getattr(self, name) is not None}

    def flops_per_token(self, length: int) -> float:
        """Floating-point operations of a forward's matrix products for one token in a sequence of ``length``.

        A product of (m, k) by (k, n) counts 2mkn, masked scores count as computed, norms and activations do not count.
        """
        return sum(flops_per_token(child, length) for child in self.children())

    def allows(self, ability: Ability) -> bool:
        """Whether this block and every one in it declare an ability; only causal blocks are asked for a cache."""
        asked = [component for _, component in self.components() if ability != "cache" or component.is_causal]
        return all(getattr(component.capabilities, ability) for component in asked)

    @property
    def is_causal(self) -> bool:
        """Whether it may be part of decoding: it does not stand where a token sees the whole text."""
        return self.site is None or self.site.causal

    def components(self) -> Iterator[tuple[str, "Component"]]:
        """Every block in this one, itself first, with its parameter-name prefix."""
        for name, module in cast("Iterator[tuple[str, nn.Module]]", self.named_modules()):
            if isinstance(module, Component):
                yield name, module


def flops_per_token(module: nn.Module, length: int) -> float:
    """As :meth:`Component.flops_per_token`, for any module: a Linear multiplies, others do what their children do."""
    if isinstance(module, Component):
        return module.flops_per_token(length)
    if isinstance(module, nn.Linear):
        return 2 * module.in_features * module.out_features
    return sum(flops_per_token(child, length) for child in module.children())
