"""Broken blocks with wrong state, shapes, documentation or costs."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from blocks.base import Init, Norm, Role, Site
from tests.conformance.broken.base import (
    AlteredModel,
    Projection,
    caught_by,
)


@caught_by("does_not_modify_its_inputs")
class WritesIntoItsInput(Projection):
    """Writes into its input."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.mul_(2.0))


@caught_by("computes_the_same_when_built_on_meta", "registers_every_tensor_as_a_parameter")
class TensorAttribute(Projection):
    """Keeps a tensor that is lost when it is built on meta."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.shift = torch.ones(site.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x + self.shift.to(x.dtype))


@caught_by("restores_its_state_dict")
class AliasedWeight(Projection):
    """Remembers a weight besides owning it, which is another one once a state takes its place."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.alias = (self.out.weight,)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.alias[0], self.out.bias)


@caught_by("parameter_names_do_not_change")
class AddsABuffer(Projection):
    """Owns one tensor more once it was trained."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.register_buffer("seen", x.detach().mean())
        return self.out(x)


@caught_by("copies_are_independent", "is_deterministic", "restores_its_state_dict", "rows_are_independent")
class AddsNoise(Projection):
    """Adds noise in evaluation too."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x + torch.randn_like(x))


@caught_by("returns_the_input_dtype")
class ReturnsFloat32(Projection):
    """Answers in another precision than it was asked."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x).float()


@caught_by("flops_match_torch")
class CountsHalfItsFlops(Projection):
    """Multiplies twice and counts one product."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.out(x))


@caught_by("documents_every_parameter")
class UndocumentedParameter(Projection):
    """Does not document its parameter."""

    def __init__(self, site: Site, *, factor: float = 1.0) -> None:
        super().__init__(site)


@caught_by("accepts_empty_inputs")
class FailsWithoutTokens(Norm):
    """Fails without tokens."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)

    def forward(self, x: Tensor) -> Tensor:
        return x / x.amax(dim=(0, 1)).abs().clamp(min=1e3)


@caught_by("builds_from_its_name")
class RefusesItsDefaults(Init):
    """Has no valid default.

    Args:
        std: standard deviation; required.
    """

    def __init__(self, *, std: float | None = None) -> None:
        super().__init__()
        if std is None:
            raise ValueError("std is required")
        self.std = std

    def draw(self, weight: Tensor, role: Role, depth: int, generator: Generator) -> None:
        weight.normal_(0.0, self.std, generator=generator)

    def deviation(self, shape: Sequence[int], role: Role, depth: int) -> float:
        return self.std


@caught_by("has_a_docstring")
class WithoutDocstring(Projection):
    __doc__ = None


@caught_by("cites_its_paper_with_a_year")
class PaperWithoutYear(Projection):
    """Cites a paper without its year."""

    paper: ClassVar[str] = "Somebody et al., a paper"


@caught_by("builds_on_the_meta_device")
class AllocatesOnTheCpu(Projection):
    """Creates a parameter on the CPU, whatever the default device."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.scale = nn.Parameter(torch.ones(site.dim, device="cpu"))

    def constants(self) -> Mapping[str, float]:
        return {"scale": 1.0}

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x) * self.scale


@caught_by("state_dict_has_each_tensor_once")
class TiesTwoProjections(Projection):
    """Two projections with one weight."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.again = nn.Linear(site.dim, site.dim)
        self.again.weight = self.out.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.out(x))


@caught_by("returns_the_expected_shape")
class ReturnsHalfTheWidth(Projection):
    """Returns the first half of the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x)[..., : x.shape[-1] // 2]


@caught_by("accepts_max_length", "accepts_more_than_max_length")
class OneTokenShort(Norm):
    """Scales by a table that is one token too short."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.table = nn.Parameter(torch.ones(site.max_length - 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.table[: x.shape[1]]


@caught_by("parameters_by_slot_add_up")
class MiscountsParameters(AlteredModel):
    """Counts one parameter too many."""

    def parameters_by_slot(self) -> dict[str, int]:
        found = dict(super().parameters_by_slot())
        return {**found, "head": found.get("head", 0) + 1}


@caught_by("hidden_states_give_the_logits")
class ReturnsOtherHiddenStates(AlteredModel):
    """Returns vectors that are not those before the head."""

    def forward(self, *given: Tensor, hidden: bool = False, **more: Any) -> Tensor:
        found = super().forward(*given, hidden=hidden, **more)
        return found * 2 if hidden else found


@caught_by("gives_zero_if_its_outputs_are_zero")
class NamesNoOutputs(Projection):
    """Leaves out which of its modules add to the residual stream."""

    outputs = ()
