"""Blocks that are right but for one thing each, which a check of the suite has to find."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from blocks.base import Context, FeedForward, Init, InputPositions, Mixer, Norm, Role, Site
from blocks.models.decoder_only import DecoderOnly
from registry import Capabilities, Positive, Probability, Runtime


class Mean(Mixer):
    """The mean of what a token may see, projected: right but for what a test takes away."""

    padding = cache = True

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.out = nn.Linear(site.dim, site.dim)

    def visible(self, context: Context) -> Tensor:
        keys = torch.arange(context.offset + context.length, device=context.positions.device)
        seen = (keys[None, :] <= keys[context.offset :, None])[None]
        if self.site is not None and not self.site.causal:
            seen = torch.ones_like(seen)
        if context.attention_mask is not None and self.padding:
            seen = seen & context.attention_mask[:, None]
        if context.documents is not None:
            seen = seen & (context.documents[:, :, None] == context.documents[:, None])
        return seen

    def remembered(self, x: Tensor, context: Context) -> Tensor:
        before = context.state("mixer", Text)
        return x if before is None or not self.cache else before.append(x)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = self.remembered(x, context)
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

    capabilities = Capabilities(places=frozenset({"causal"}))


class BothWays(Mean):
    """The mean of all, projected."""

    capabilities = Capabilities(places=frozenset({"bidirectional"}))


class Backed(CausalMean):
    """Takes a backend that it does not declare.

    Args:
        backend: how it is computed.
    """

    capabilities = Capabilities(places=frozenset({"causal"}), backends=("eager",))

    def __init__(self, site: Site, *, backend: Annotated[Literal["eager", "fused"], Runtime()] = "eager") -> None:
        super().__init__(site)


class Clairvoyant(CausalMean):
    """Looks one token ahead."""

    def visible(self, context: Context) -> Tensor:
        ahead = torch.ones(context.length, context.offset + context.length).tril(context.offset + 1).bool()
        return super().visible(context) | ahead


class Shortsighted(CausalMean):
    """Sees two tokens and says nothing of it."""

    def visible(self, context: Context) -> Tensor:
        return super().visible(context) & (context.distances() > -2)


class Farsighted(CausalMean):
    """Says that it sees two tokens, and sees all."""

    window = 2


class Forgetful(CausalMean):
    """Ignores its cache."""

    cache = False

    def visible(self, context: Context) -> Tensor:
        return super().visible(context)[..., context.offset :]


class Hoarding(CausalMean):
    """Keeps a second copy of the text with each token."""

    class Copies(Text):
        """All vectors so far, and all that were before."""

        def append(self, x: Tensor) -> Tensor:
            y = super().append(x)
            vars(self)[f"copy {y.shape[1]}"] = y.clone()
            return y

    def remembered(self, x: Tensor, context: Context) -> Tensor:
        before = context.state("mixer", self.Copies)
        return x if before is None else before.append(x)


class Rounding(CausalMean):
    """Keeps what it remembers in half the precision."""

    class Rounded(Text):
        """All vectors so far, of few digits."""

        def append(self, x: Tensor) -> Tensor:
            return super().append(x.half()).to(x.dtype)

    def remembered(self, x: Tensor, context: Context) -> Tensor:
        before = context.state("mixer", self.Rounded)
        return x if before is None else before.append(x)


class Clinging(CausalMean):
    """Begins each text with the token that the text before began with, whatever the cache."""

    def remembered(self, x: Tensor, context: Context) -> Tensor:
        y = super().remembered(x, context)
        if context.cache is None:
            return y
        before, self.first = getattr(self, "first", y[:, :1]), x[:, :1].detach()
        return torch.cat([before, y[:, 1:]], dim=1)


class Placing(CausalMean):
    """Uses absolute positions."""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return super().forward(x + torch.sin(context.positions[..., None].to(x.dtype)), context)


class Ordering(BothWays):
    """Tells neighbours from others."""

    def visible(self, context: Context) -> Tensor:
        return super().visible(context) & (context.distances().abs() < 2)


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


class Louder(CausalMean):
    """Is louder with a window, even with one over everything.

    Args:
        window: a token sees only those closer than this.
    """

    def __init__(self, site: Site, *, window: Positive | None = None) -> None:
        super().__init__(site)
        self.window = window

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return super().forward(x, context) * (1.0 if self.window is None else 1.1)


class Repeating(Mixer):
    """The mean of the memory, one row of which does for all."""

    capabilities = Capabilities(places=frozenset({"cross"}))

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.out = nn.Linear(site.memory_dim or 1, site.dim)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        assert context.memory is not None
        return x + self.out(context.memory.mean(1, keepdim=True))


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


class Aliased(Double):
    """Remembers a weight besides owning it, which is another one once a state takes its place."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.alias = (self.out.weight,)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.alias[0], self.out.bias)


class Growing(Double):
    """Owns one tensor more once it was trained."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.register_buffer("seen", x.detach().mean())
        return self.out(x)


class Restless(Double):
    """Adds noise in evaluation too."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x + torch.randn_like(x))


class Upcast(Double):
    """Answers in another precision than it was asked."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x).float()


class Coarse(Double):
    """Loses digits on the way, of which half precision has none to lose."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x) * ((x + 300.0) - 300.0)


class Breaking(Double):
    """Asks a tensor for a number, which breaks the compiled graph."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x) * (2.0 if x.sum().item() > 1e9 else 1.0)


class Unrolling(Double):
    """Goes from token to token, so that each length is another program."""

    def forward(self, x: Tensor) -> Tensor:
        found = [self.out(x[:, time]) for time in range(x.shape[1])]
        return torch.stack(found, dim=1) if found else self.out(x)


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


class DroppingMore(Double):
    """Drops more than it is told.

    Args:
        dropout: share of the channels.
    """

    def __init__(self, site: Site, *, dropout: Probability = 0.0) -> None:
        super().__init__(site)
        self.share = dropout

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.out(x), self.share**0.5, self.training)


class DroppingTheSame(DroppingMore):
    """Drops the same values each time.

    Args:
        dropout: share of the channels.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            torch.default_generator.manual_seed(0)
        return F.dropout(self.out(x), self.share, self.training)


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


class Stretching(Norm):
    """Makes one channel into many."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.gain = nn.Parameter(torch.ones(site.dim))

    def constants(self) -> dict[str, float]:
        return {"gain": 1.0}

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


class Wrapping(InputPositions):
    """Refuses a text that is too long, unless it comes token by token."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.table = nn.Embedding(site.max_length, site.dim)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        if context.length > len(self.table.weight):
            raise ValueError(f"{context.length} tokens, but there are {len(self.table.weight)} positions")
        return x + self.table(context.positions % len(self.table.weight)).expand_as(x)


class Boasting(Init):
    """Says that it draws narrower than it does."""

    def __init__(self) -> None:
        super().__init__()

    def draw(self, weight: Tensor, role: Role, depth: int, generator: Generator) -> None:
        weight.normal_(0.0, 0.03, generator=generator)

    def deviation(self, shape: Sequence[int], role: Role, depth: int) -> float:
        return 0.02


class Altered(DecoderOnly):
    """A model right but for what a test does to it."""

    __init__ = DecoderOnly.__init__
    paper: ClassVar[str] = ""


class Rescaled(Altered):
    """Doubles all that its init draws."""

    def initialise(self, seed: int = 0) -> None:
        super().initialise(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(2.0)


class Lenient(Altered):
    """Takes masks of numbers for masks of True and False."""

    def forward(self, tokens: Tensor, *, attention_mask: Tensor | None = None, **rest: Any) -> Tensor:
        mask = None if attention_mask is None else attention_mask.bool()
        return super().forward(tokens, attention_mask=mask, **rest)


class Unteachable(Altered):
    """Has no gradients."""

    def forward(self, *args: Any, **rest: Any) -> Tensor:
        y = super().forward(*args, **rest)
        return y.detach() + 0.0 * y
