"""Broken blocks with wrong gradients, precision or dropout."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.attention.key_selector import Choice
from blocks.attention.visibility import Visibility
from blocks.base import Context, Norm, Site
from blocks.selectors.indexer import Indexer
from registry import Probability
from tests.conformance.broken.base import AlteredModel, CausalMean, Projection, caught_by


@caught_by("gradients_match_finite_differences")
class DetachesItsInput(Projection):
    """Cuts its input's gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x) + x.detach()


@caught_by("gradients_match_finite_differences")
class ComputesInBfloat16(CausalMean):
    """Computes in bfloat16, whatever it is given."""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return super().forward(x.bfloat16().to(x.dtype), context)


@caught_by("compiles_without_graph_breaks", "gradients_reach_every_parameter")
class UnusedParameter(Projection):
    """Owns a parameter that it never uses."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.spare = nn.Parameter(torch.zeros(3, 3))


@caught_by("bfloat16_gradients_match_float64", "bfloat16_matches_float64", "float32_matches_float64")
class LosesDigits(Projection):
    """Loses digits on the way, of which half precision has none to lose."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x) * ((x + 1e5) - 1e5)


@caught_by("dropout_has_its_rate")
class DropsMore(Projection):
    """Drops more than it is told.

    Args:
        dropout: share of the channels.
    """

    def __init__(self, site: Site, *, dropout: Probability = 0.0) -> None:
        super().__init__(site)
        self.share = dropout

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.out(x), self.share**0.5, self.training)


@caught_by("dropout_has_its_rate")
class DropsTheSame(DropsMore):
    """Drops the same values each time.

    Args:
        dropout: share of the channels.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            torch.default_generator.manual_seed(0)
        return F.dropout(self.out(x), self.share, self.training)


@caught_by("learns_one_batch")
class HasNoGradients(AlteredModel):
    """Has no gradients."""

    def forward(self, *args: Any, **rest: Any) -> Tensor:
        y = super().forward(*args, **rest)
        return y.detach() + 0.0 * y


@caught_by("activation_checkpointing_changes_nothing")
class CountsItsCalls(Projection):
    """Scales by the number of calls."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.out(x) * (1.0 + 0.1 * self.calls)


@caught_by("dropout_acts_only_in_training")
class DropsInEvaluation(DropsMore):
    """Drops values in evaluation too.

    Args:
        dropout: share of the channels.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.out(x), self.share, True)


@caught_by("training_equals_evaluation_without_dropout")
class ScalesInTraining(Projection):
    """Scales by 1.1 in training only."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x) * (1.1 if self.training else 1.0)


@caught_by("zero_inputs_give_finite_gradients")
class DividesByTheNorm(Norm):
    """x / |x| without an epsilon."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)

    def forward(self, x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True)


@caught_by("auxiliary_loss_reaches_every_parameter")
class TeachesItsInputs(Indexer):
    """Lets the loss of the choice train what the choice is made from."""

    def __init__(self, site: Site, query_dim: int) -> None:
        super().__init__(site, query_dim)
        self.weights.register_forward_pre_hook(lambda module, inputs: (self.given,))

    def forward(
        self, x: Tensor, queries: Tensor, visible: Visibility, context: Context, window: int | None = None
    ) -> Choice:
        self.given = x
        return super().forward(x, queries, visible, context, window)
