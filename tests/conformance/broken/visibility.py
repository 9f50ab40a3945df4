"""Broken blocks whose outputs depend on the wrong inputs."""

import torch
from torch import Tensor, nn

from blocks.base import Context, Mixer, Norm, Site
from registry import Capabilities
from tests.conformance.broken.base import BidirectionalMean, CausalMean, Projection, caught_by


@caught_by("accepts_one_token", "decodes_in_chunks", "is_causal")
class AttendsOneAhead(CausalMean):
    """Looks one token ahead."""

    def visible(self, context: Context) -> Tensor:
        ahead = torch.ones(context.length, context.offset + context.length).tril(context.offset + 1).bool()
        return super().visible(context) | ahead


@caught_by("attends_exactly_its_window")
class UndeclaredWindow(CausalMean):
    """Sees two tokens and says nothing of it."""

    def visible(self, context: Context) -> Tensor:
        return super().visible(context) & (context.distances() > -2)


@caught_by("attends_exactly_its_window")
class IgnoresItsWindow(CausalMean):
    """Says that it sees two tokens, and sees all."""

    window = 2


@caught_by("position_shift_has_the_declared_effect")
class UndeclaredAbsolutePositions(CausalMean):
    """Uses absolute positions."""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return super().forward(x + torch.sin(context.positions[..., None].to(x.dtype)), context)


@caught_by("attends_exactly_its_window", "token_order_matters_only_if_declared")
class UndeclaredOrder(BidirectionalMean):
    """Tells neighbours from others."""

    def visible(self, context: Context) -> Tensor:
        return super().visible(context) & (context.distances().abs() < 2)


@caught_by("decodes_a_padded_batch", "ignores_padding", "ignores_padding_of_each_row")
class AttendsToPadding(CausalMean):
    """Takes padding for text."""

    padding = False


@caught_by("packed_documents_are_independent")
class AttendsAcrossDocuments(CausalMean):
    """Takes all documents for one."""

    def visible(self, context: Context) -> Tensor:
        context.documents = None
        return super().visible(context)


@caught_by("prefix_depends_on_all_of_itself")
class IgnoresThePrefix(CausalMean):
    """Reads a prefix in one direction, like all other tokens."""

    def visible(self, context: Context) -> Tensor:
        context.prefix = None
        return super().visible(context)


@caught_by("ignores_memory_padding", "refuses_memory_of_another_batch_size", "refuses_missing_memory")
class BroadcastsMemory(Mixer):
    """The mean of the memory, one row of which does for all."""

    capabilities = Capabilities(places=frozenset({"cross"}))

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.out = nn.Linear(site.memory_dim or 1, site.dim)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return x if context.memory is None else x + self.out(context.memory.mean(1, keepdim=True))


@caught_by("tokens_are_independent")
class MixesTokens(Projection):
    """Mixes in the token before."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x + x.roll(1, dims=1))


@caught_by("rows_are_independent")
class NormalisesOverTheBatch(Norm):
    """Normalises over the batch."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(0, keepdim=True) + 1.0)


@caught_by("depends_on_every_memory_token")
class AttendsToOneMemoryToken(BroadcastsMemory):
    """x plus a projection of the first token of the memory."""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        assert context.memory is not None
        return x + self.out(context.memory[:, :1])


@caught_by("each_output_depends_on_its_own_token")
class MovesTokens(Projection):
    """A projection of the token before."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.roll(1, dims=1))


@caught_by("rows_of_padding_give_finite_values")
class DividesByZeroTokens(CausalMean):
    """A mean without tokens is 0 / 0."""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = self.remembered(x, context)
        seen = self.visible(context)[..., -x.shape[1] :].to(x.dtype)
        return self.out((seen @ x) / seen.sum(-1, keepdim=True))
