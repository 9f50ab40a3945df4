"""Base class of blocks that are modules."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Self, cast

from torch import Tensor, nn

from blocks.base.axes import Axis
from blocks.base.features import Feature
from blocks.base.intermediates import Intermediate, Listener
from blocks.base.site import Site
from registry import PLACES, Ability, Block, Cut, UnfitError


class Component(nn.Module, Block):
    """A block that is an ``nn.Module``.

    Attributes:
        outputs: names of child modules whose output is added to the residual stream, which some inits scale by depth.
        is_noop: True for a block that does nothing, so that its parent leaves the sublayer out.
        symbol: its name as a function in the formulas of a block around it; empty: the name it is registered under.
        intermediates: what the values mean that its forward pass gives to :meth:`record`, by name, and its ``output``.
        listener: takes the recorded values; None: they are not recorded.
    """

    outputs: ClassVar[tuple[str, ...]] = ()
    is_noop: ClassVar[bool] = False
    symbol: ClassVar[str] = ""
    intermediates: ClassVar[Mapping[str, Intermediate]] = {}
    listener: Listener | None = None

    def __init__(self, site: Site | None = None) -> None:
        super().__init__()
        self.site = site
        if site is not None and (place := site.place) not in self.capabilities.places:
            raise UnfitError(f"does not {PLACES[place]}", lambda block: place in block.capabilities.places)

    @property
    def has_base(self) -> bool:
        return "_modules" in vars(self)

    @classmethod
    def placeholder(cls) -> Self:
        block = cls.__new__(cls)
        nn.Module.__init__(block)
        return block

    @property
    def zero_at_zero(self) -> bool:
        """Whether a mixer or feed-forward starts by giving 0 if the weights of all ``outputs`` in it are set to 0."""
        return not self.is_noop

    @property
    def recording(self) -> bool:
        """Whether there is a listener: a value that only it needs is computed only then."""
        return self.listener is not None

    def record(self, **values: Tensor) -> None:
        """Give intermediate values to the listener of :func:`~blocks.base.listening`; without one, do nothing.

        Args:
            values: by the names in ``intermediates``, (B, ...) with the axes that are declared there, or without B
                where the block takes rows of tokens.
        """
        if self.listener is not None:
            for name, value in values.items():
                self.listener(self, name, value)

    def constants(self) -> Mapping[str, float | Sequence[float]]:
        """Initial values of parameters that the init does not draw, by the parameter's name in this block.

        A sequence gives one value per index of the last axis.
        """
        return {}

    def deviations(self) -> Mapping[str, float]:
        """Standard deviations of parameters that are drawn from a normal distribution whatever the init is, by name."""
        return {}

    def axes(self) -> Mapping[str, tuple[Axis | None, ...]]:
        """Meaning of parameter axes, by the parameter's dotted name in this block.

        A warm start resizes by them, and ``init: mup`` scales by them. None: an axis that grows with the model's width,
        whose size must be the same in a warm start; :class:`~blocks.base.Fixed`: an axis that does not grow. Parameters
        that are not named start from parameters of the same shape only, and are refused by ``init: mup``.
        """
        return {}

    def fallback_names(self) -> Mapping[str, str]:
        """For a warm start, parameter name -> other name to try in the old block if the first is missing."""
        return {}

    def read_features(self) -> Mapping[str, Feature]:
        """The features that it reads from ``context.features``, by name, without those of blocks in it."""
        return {}

    def shards(self) -> Mapping[str, Cut]:
        """``capabilities.shards`` of the children that exist; empty: this configuration cannot be cut."""
        return {name: cut for name, cut in self.capabilities.shards.items() if getattr(self, name) is not None}

    def flops_per_token(self, length: int) -> float:
        """Floating-point operations per token of the matrix products in a forward over a sequence of ``length``.

        A product of (m, k) by (k, n) counts 2mkn, masked scores count as computed, norms and activations do not count.
        """
        return sum(flops_per_token(child, length) for child in self.children())

    def allows(self, ability: Ability) -> bool:
        """Whether this block and all blocks in it have an ability; only causal blocks need a cache or take a prefix."""
        everywhere = ability not in ("cache", "prefix")
        asked = [component for _, component in self.components() if everywhere or component.is_causal]
        return all(getattr(component.capabilities, ability) for component in asked)

    @property
    def is_causal(self) -> bool:
        """True for blocks that take part in decoding."""
        return self.site is None or self.site.causal

    def components(self) -> Iterator[tuple[str, "Component"]]:
        """This block and all blocks in it, each with its parameter-name prefix."""
        for name, module in cast("Iterator[tuple[str, nn.Module]]", self.named_modules()):
            if isinstance(module, Component):
                yield name, module


def flops_per_token(module: nn.Module, length: int) -> float:
    """As :meth:`Component.flops_per_token`, for any module: the sum over children, and the product of a Linear."""
    if isinstance(module, Component):
        return module.flops_per_token(length)
    own = 0
    if isinstance(module, nn.Linear):  # a block-diagonal one has several groups
        own = 2 * module.in_features * module.out_features // int(getattr(module, "groups", 1))
    return own + sum(flops_per_token(child, length) for child in module.children())
