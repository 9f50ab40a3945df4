"""Broken blocks: initial values, capabilities, compilation, settings."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from blocks.base import Context, Expert, Init, Intermediate, Linear, Norm, Role, Site
from registry import Capabilities, Positive, Runtime
from tests.conformance.broken.base import AlteredModel, CausalMean, Projection, caught_by
from tests.conformance.broken.caching import DecodesBeyondMaxLength

DOUBLED = Intermediate("Twice the input.", ("...", "width"))


@caught_by("normalises_each_head_with_its_own_weights")
class IgnoresHeads(Norm):
    """Shares its weights among the heads."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.weight = nn.Parameter(torch.ones(site.dim))

    def constants(self) -> Mapping[str, float]:
        return {"weight": 1.0}

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


@caught_by("backends_agree")
class UndeclaredBackend(CausalMean):
    """Takes a backend that it does not declare.

    Args:
        backend: how it is computed.
    """

    capabilities = Capabilities(places=frozenset({"causal"}), backends=("eager",))

    def __init__(self, site: Site, *, backend: Annotated[Literal["eager", "fused"], Runtime()] = "eager") -> None:
        super().__init__(site)


@caught_by("no_op_values_change_nothing")
class ScalesWithAWindow(CausalMean):
    """Is louder with a window, even with one over everything.

    Args:
        window: a token sees only those closer than this.
    """

    def __init__(self, site: Site, *, window: Positive | None = None) -> None:
        super().__init__(site)
        self.window = window

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return super().forward(x, context) * (1.0 if self.window is None else 1.1)


@caught_by("compiles_without_graph_breaks", "exports")
class BreaksTheGraph(Projection):
    """Asks a tensor for a number, which breaks the compiled graph."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x) * (2.0 if x.sum().item() > 1e9 else 1.0)


@caught_by("compiles_once_for_all_lengths")
class LoopsOverTokens(Projection):
    """Goes from token to token, so that each length is another program."""

    def forward(self, x: Tensor) -> Tensor:
        found = [self.out(x[:, time]) for time in range(x.shape[1])]
        return torch.stack(found, dim=1) if found else self.out(x)


@caught_by("refuses_another_width")
class BroadcastsChannels(Norm):
    """Makes one channel into many."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.gain = nn.Parameter(torch.ones(site.dim))

    def constants(self) -> dict[str, float]:
        return {"gain": 1.0}

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


@caught_by("init_draws_the_declared_deviation")
class DeclaresAnotherDeviation(Init):
    """Says that it draws narrower than it does."""

    def __init__(self) -> None:
        super().__init__()

    def draw(self, weight: Tensor, role: Role, depth: int, generator: Generator) -> None:
        weight.normal_(0.0, 0.03, generator=generator)

    def deviation(self, shape: Sequence[int], role: Role, depth: int) -> float:
        return 0.02


@caught_by("model_starts_with_the_declared_deviation")
class DoublesInitialValues(AlteredModel):
    """Doubles all that its init draws."""

    def initialise(self, seed: int = 0) -> None:
        super().initialise(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(2.0)


@caught_by("refuses_float_masks")
class AcceptsFloatMasks(AlteredModel):
    """Takes masks of numbers for masks of True and False."""

    def forward(self, tokens: Tensor, *, attention_mask: Tensor | None = None, **rest: Any) -> Tensor:
        mask = None if attention_mask is None else attention_mask.bool()
        return super().forward(tokens, attention_mask=mask, **rest)


@caught_by("init_fills_every_value")
class FillsTheFirstRow(Init):
    """Leaves all rows but the first as they are."""

    def __init__(self) -> None:
        super().__init__()

    def draw(self, weight: Tensor, role: Role, depth: int, generator: Generator) -> None:
        weight[0].normal_(0.0, 0.02, generator=generator)

    def deviation(self, shape: Sequence[int], role: Role, depth: int) -> float:
        return 0.02


@caught_by("init_uses_only_its_generator")
class UsesTheGlobalGenerator(DeclaresAnotherDeviation):
    """Draws from torch's default generator."""

    def draw(self, weight: Tensor, role: Role, depth: int, generator: Generator) -> None:
        weight.normal_(0.0, 0.02)


@caught_by("initial_values_depend_on_seed_and_name_only")
class IgnoresTheSeed(AlteredModel):
    """Draws the same values for every seed."""

    def initialise(self, seed: int = 0) -> None:
        super().initialise(0)


@caught_by("every_stored_setting_has_an_effect")
class UnusedSetting(Projection):
    """A projection.

    Args:
        factor: stored and not used.
    """

    def __init__(self, site: Site, *, factor: float = 1.0) -> None:
        super().__init__(site)
        self.factor = factor


@caught_by("stacked_experts_match_single_blocks")
class MixesExperts(Expert):
    """down(up(x)), where the input of ``down`` is averaged over all rows if there are several experts."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.up = Linear(site, site.dim, site.dim)
        self.down = Linear(site, site.dim, site.dim)

    def forward(self, x: Tensor, offsets: Tensor | None = None) -> Tensor:
        y = self.up(x, offsets)
        return self.down(y if offsets is None else y.mean(0, keepdim=True).expand_as(y), offsets)


@caught_by("refuses_padding", "refuses_documents", "refuses_a_prefix", "refuses_a_cache")
class AcceptsUndeclaredInputs(CausalMean):
    """Declares fewer capabilities than it has, and refuses nothing."""

    capabilities = Capabilities(places=frozenset({"causal"}), padding=False, documents=False, prefix=False, cache=False)

    def prepare(self, context: Context) -> None:
        pass


@caught_by("refuses_more_than_max_length")
class AcceptsAnyLength(DecodesBeyondMaxLength):
    """Declares a longest text, and takes longer ones."""

    capabilities = Capabilities(any_length=False)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return x + self.table(context.positions % len(self.table.weight)).expand_as(x)


@caught_by("refuses_masks_of_another_shape", "refuses_documents_with_a_cache")
class IgnoresUnfittingInputs(AlteredModel):
    """Drops masks of another shape, and masks and documents in decoding."""

    def forward(self, tokens: Tensor, **given: Any) -> Tensor:
        fitting = {
            key: value for key, value in given.items() if key == "cache" or value is None or self.fits(value, tokens)
        }
        if fitting.get("cache") is not None:
            fitting.pop("documents", None)
        return super().forward(tokens, **fitting)

    @staticmethod
    def fits(value: Tensor, tokens: Tensor) -> bool:
        return value.shape[-1] == tokens.shape[1]


@caught_by("records_what_it_declares")
class RecordsWhatItDoesNotDeclare(Norm):
    """Records a value that its intermediates do not name."""

    intermediates: ClassVar[Mapping[str, Intermediate]] = {
        "doubled": Intermediate("Twice the input.", ("...", "width"))
    }

    def forward(self, x: Tensor) -> Tensor:
        self.record(twice=2 * x)
        return 2 * x


@caught_by("records_what_it_declares")
class RecordsNothingOfAPartThatItHas(Norm):
    """Declares a value that needs its weight, has a weight, and records nothing."""

    intermediates: ClassVar[Mapping[str, Intermediate]] = {
        "weighted": Intermediate("Each channel times its weight.", ("...", "width"), needs="weight")
    }

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.weight = nn.Parameter(torch.ones(site.dim))

    def constants(self) -> Mapping[str, float]:
        return {"weight": 1.0}

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


@caught_by("recording_changes_nothing")
class ChangesWhileSomebodyListens(Norm):
    """Gives another output while its values are recorded."""

    intermediates: ClassVar[Mapping[str, Intermediate]] = {
        "doubled": Intermediate("Twice the input.", ("...", "width"))
    }

    def forward(self, x: Tensor) -> Tensor:
        doubled = 2 * x
        self.record(doubled=doubled)
        return doubled + 1 if self.recording else doubled
