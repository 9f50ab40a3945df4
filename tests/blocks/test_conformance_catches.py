"""The suite finds what is wrong: one broken block for each of its checks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from blocks.base import Context, FeedForward, Mixer, Norm, Site
from blocks.conformance import Subject, pairs, parametrize_checks
from registry import Capabilities, register


class Mean(Mixer):
    """The mean of what came before, projected: right but for what a test takes away."""

    padding = cache = True

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.out = nn.Linear(site.dim, site.dim)

    def visible(self, context: Context) -> Tensor:
        keys = torch.arange(context.offset + context.length, device=context.positions.device)
        seen = (keys[None, :] <= keys[context.offset :, None])[None]
        if context.attention_mask is not None and self.padding:
            seen = seen & context.attention_mask[:, None]
        if context.documents is not None:
            seen = seen & (context.documents[:, :, None] == context.documents[:, None])
        return seen

    def forward(self, x: Tensor, context: Context) -> Tensor:
        before = context.state("mixer", Text)
        x = x if before is None or not self.cache else before.append(x)
        seen = self.visible(context)[..., -x.shape[1] :].to(x.dtype)
        return self.out((seen @ x) / seen.sum(-1, keepdim=True).clamp(min=1))

    def flops_per_token(self, length: int) -> float:
        return super().flops_per_token(length) + 2 * length * self.out.in_features

    @property
    def cached_per_token(self) -> int:
        return self.out.in_features if self.cache else 0


class Text:
    """All vectors so far."""

    def __init__(self) -> None:
        self.x: Tensor | None = None

    def append(self, x: Tensor) -> Tensor:
        self.x = x if self.x is None else torch.cat([self.x, x], dim=1)
        return self.x

    def reorder(self, rows: Tensor) -> None:
        if self.x is not None:
            self.x = self.x[rows]


class CausalMean(Mean):
    """The mean of what came before, projected."""

    can = Capabilities(places=frozenset({"causal"}))


class Clairvoyant(CausalMean):
    """Looks one token ahead."""

    def visible(self, context: Context) -> Tensor:
        ahead = torch.ones(context.length, context.offset + context.length).tril(context.offset + 1).bool()
        return super().visible(context) | ahead


class Forgetful(CausalMean):
    """Ignores its cache."""

    cache = False

    def visible(self, context: Context) -> Tensor:
        return super().visible(context)[..., context.offset :]


class PaddingReader(CausalMean):
    """Takes padding for text."""

    padding = False


class DocumentReader(CausalMean):
    """Takes all documents for one."""

    def visible(self, context: Context) -> Tensor:
        context.documents = None
        return super().visible(context)


class HalfPrecise(CausalMean):
    """Computes in bfloat16, whatever it is given."""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return super().forward(x.bfloat16().to(x.dtype), context)


class Double(FeedForward):
    """A projection: right but for what a test does to it."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.out = nn.Linear(site.dim, site.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x)


class Overwriter(Double):
    """Writes into its input."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.mul_(2.0))


class Unused(Double):
    """Owns a parameter that it never uses."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.spare = nn.Parameter(torch.zeros(3))


class Stray(Double):
    """Keeps a tensor that is lost when it is built on meta."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.shift = torch.ones(site.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x + self.shift.to(x.dtype))


class Restless(Double):
    """Adds noise in evaluation too."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x + torch.randn_like(x))


class Upcast(Double):
    """Answers in another precision than it was asked."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x).float()


class Breaking(Double):
    """Asks a tensor for a number, which breaks the compiled graph."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x) * (2.0 if x.sum().item() > 1e9 else 1.0)


class Detached(Double):
    """Cuts its input's gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x) + x.detach()


class Costly(Double):
    """Multiplies twice and tells of it once."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.out(x))


class Neighbourly(Double):
    """Mixes in the token before."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x + x.roll(1, dims=1))


class Undocumented(Double):
    """Says nothing of its parameter."""

    def __init__(self, site: Site, *, factor: float = 1.0) -> None:
        super().__init__(site)


class Batchy(Norm):
    """Normalises over the batch."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(0, keepdim=True) + 1.0)


class Rowless(Norm):
    """Fails without tokens."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)

    def forward(self, x: Tensor) -> Tensor:
        return x / x.amax(dim=(0, 1)).abs().clamp(min=1e3)


@pytest.fixture
def registering(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Any]], Subject]:
    """Registers a class for one test."""
    from registry import core

    monkeypatch.setattr(core, "_ENTRIES", {slot: dict(named) for slot, named in core._ENTRIES.items()})
    monkeypatch.setattr(core, "_NAMES", dict(core._NAMES))

    def registered(block: type[Any]) -> Subject:
        return Subject.of(register(block.__name__.lower())(block))

    return registered


def failing(subject: Subject) -> set[str]:
    found: set[str] = set()
    for _, check in pairs([subject]):
        try:
            check(subject)
        except Exception:
            found.add(check.__name__.removeprefix("check_"))
    return found


@pytest.mark.parametrize("block", [CausalMean, Double])
def test_a_right_block_passes(block: type[Any], registering: Callable[[type[Any]], Subject]) -> None:
    assert failing(registering(block)) == set()


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (Clairvoyant, {"sees_no_future", "decodes_in_chunks", "takes_one_token"}),
        (Forgetful, {"decodes_token_by_token", "decodes_in_chunks", "decodes_a_padded_batch", "follows_a_beam"}),
        (PaddingReader, {"ignores_padding", "ignores_padding_row_by_row", "decodes_a_padded_batch"}),
        (DocumentReader, {"keeps_documents_apart"}),
        (HalfPrecise, {"gradients_are_right"}),
        (Overwriter, {"leaves_its_inputs_alone"}),
        (Unused, {"gradients_reach_every_parameter", "compiles"}),
        (Stray, {"keeps_tensors_as_parameters"}),
        (Restless, {"treats_rows_alone", "repeats_itself", "restores_its_state", "copies"}),
        (Upcast, {"keeps_the_dtype"}),
        (Breaking, {"compiles"}),
        (Detached, {"gradients_are_right"}),
        (Costly, {"counts_its_flops"}),
        (Neighbourly, {"treats_each_token_alone"}),
        (Undocumented, {"documents_its_parameters"}),
        (Batchy, {"treats_rows_alone"}),
        (Rowless, {"takes_nothing"}),
    ],
)
def test_a_broken_block_is_found(
    block: type[Any], expected: set[str], registering: Callable[[type[Any]], Subject]
) -> None:
    assert expected <= failing(registering(block))


def test_a_failure_can_be_expected_with_its_reason(registering: Callable[[type[Any]], Subject]) -> None:
    subject = registering(Costly)
    reasons = {"feedforward/costly: counts_its_flops": "it multiplies twice"}
    (params,) = [mark.args[1] for mark in [parametrize_checks([subject], expected_failures=reasons).mark]]
    (marked,) = [param for param in params if param.marks]
    assert marked.id == "feedforward/costly: counts_its_flops"
    assert marked.marks[0].kwargs == {"reason": "it multiplies twice", "strict": True}
    with pytest.raises(ValueError, match="counts_its_sheep"):
        parametrize_checks([subject], expected_failures={"counts_its_sheep": "there are none"})
