"""The slots inside a stack, each an abstract class with its contract; those at its ends are in ``ends``."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Self, TypeVar

from torch import Tensor

from blocks.base.component import Component
from blocks.base.context import Context
from blocks.base.input_checks import check_inputs
from blocks.base.site import Site
from registry import AsRecipe, Slot, UnfitError

T = TypeVar("T")
Factory = Annotated[Callable[[Site], T], AsRecipe()]
SitelessFactory = Annotated[Callable[[], T], AsRecipe()]


class Activation(Component, ABC):
    """A pointwise non-linearity."""

    slot = Slot("activation", "Applies a pointwise non-linearity.", parent_arguments=())

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(...) -> (...)"""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...


class Norm(Component, ABC):
    """Normalises the last axis."""

    slot = Slot("norm", "Normalises the last axis.")

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor) -> Tensor: ...


class Mixer(Component, ABC):
    """Mixes information across tokens.

    It is causal where ``site.causal`` is True, and attends to ``context.memory`` where ``site.memory_dim`` is set.

    Attributes:
        window: outputs depend only on tokens less than this many tokens away; None: no limit.
        chunk: outputs depend only on tokens of the same chunk, of this many tokens; None: no limit.
        absolute: False if shifting all positions by the same amount changes nothing but what its positions do.
        reads_inputs: whether it reads ``context.inputs``, which is given only to stacks with such a mixer.
    """

    slot = Slot("mixer", "Mixes information across tokens.")
    window: int | None = None
    chunk: int | None = None
    absolute: bool = False
    reads_inputs: bool = False

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        if site.written_dim != site.dim and not self.capabilities.resizes:
            raise UnfitError("cannot write another width than it reads", lambda block: block.capabilities.resizes)

    @abstractmethod
    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) -> (B, T, D)"""

    def prepare(self, context: Context) -> None:
        """Compute what all layers share, before the first layer runs.

        The default only checks the context; mixers that support every input may override it.

        Raises:
            ValueError: the context has an input that the mixer does not support.
        """
        check_inputs(self, context)

    @property
    def scored_heads(self) -> int:
        """Number of heads whose scores ``context.bias`` is added to; 0: none."""
        return 0

    @property
    def cached_per_token(self) -> int:
        """Cached elements per token of the sequence, at most ``window``, or of the memory for a cross mixer."""
        return 0

    @property
    def cached_per_sequence(self) -> int:
        """Cached elements per sequence, independent of its length."""
        return 0

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, context: Context) -> Tensor: ...


class Layer(Component, ABC):
    """A mixer and a feed-forward, wired into the residual stream, or into several of them.

    Attributes:
        streams: number N of residual streams, each of the width D; None: any number, as the layer has no sublayers.
    """

    slot = Slot(
        "layer", "Wires a mixer and a feed-forward into one step of the residual stream.", default_block="sequential"
    )
    streams: int | None = 1

    @property
    def identity_at_zero(self) -> bool:
        """Whether it is the identity if its sublayers' ``outputs`` are 0."""
        return False

    @abstractmethod
    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) -> (B, T, D), or with several streams (B, T, N, D) -> (B, T, N, D)"""

    @abstractmethod
    def prepare(self, context: Context) -> None:
        """Call ``prepare`` of the sublayers, before the first layer runs."""

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, context: Context) -> Tensor: ...


class Stack(Component, ABC):
    """Layers in order, and the norm after them."""

    slot = Slot("stack", "Runs layers in order, and the norm after them.", default_block="layers")

    @abstractmethod
    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) -> (B, T, D)"""

    @property
    @abstractmethod
    def depth(self) -> int:
        """Number of layers applied to a token."""

    @property
    def repeats(self) -> int:
        """Number of runs of each layer."""
        return 1

    def weight_sources(self, old: Self) -> Mapping[str, str | None]:
        """Map children to the children of ``old`` that they start from in a warm start; None: fresh.

        Children that are not named start from those of the same name.
        """
        return {}

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, context: Context) -> Tensor: ...
