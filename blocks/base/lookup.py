"""The slot lookup."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from torch import Tensor

from blocks.base.component import Component
from blocks.base.context import Context
from blocks.base.input_checks import check_inputs
from blocks.base.site import Site
from registry import AsRecipe, Slot


class Lookup(Component, ABC):
    """Gives what a layer adds to the residual streams because of the ids of the last tokens, before its sublayers.

    It reads ``context.tokens``.

    Attributes:
        reach: number of tokens before each that its output depends on.
    """

    slot = Slot(
        "lookup",
        "Adds to the residual stream what it looks up by the ids of the last tokens.",
        parent_arguments=("site", "streams"),
    )
    reach: int = 0

    @abstractmethod
    def forward(self, x: Tensor, context: Context) -> Tensor:
        """The update of the stream: (B, T, D) -> (B, T, D), or with several streams (B, T, N, D) -> (B, T, N, D)"""

    def prepare(self, context: Context) -> None:
        """Compute what all layers share, before the first layer runs.

        Raises:
            ValueError: the context has an input that it does not support.
        """
        check_inputs(self, context)

    @property
    def cached_per_sequence(self) -> int:
        """Cached elements per sequence, independent of its length."""
        return 0

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, context: Context) -> Tensor: ...


LookupFactory = Annotated[Callable[[Site, int], Lookup], AsRecipe()]
