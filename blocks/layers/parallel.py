"""A layer with parallel sublayers."""

from torch import Tensor, nn

from blocks.attention.softmax import MultiHeadAttention
from blocks.base import Context, Factory, FeedForward, Intermediate, Layer, Mixer, Norm, Site, described
from blocks.feedforward.mlp import MLP
from blocks.norms.layer import LayerNorm
from registry import Capabilities, Probability, register


@register("parallel")
class ParallelLayer(Layer):
    """x + mixer(norm(x)) + feedforward(norm(x)): both sublayers read the same stream.

    Args:
        mixer: mixes information across tokens.
        feedforward: transforms each token independently.
        norm: norm before the mixer and, unless ``feedforward_norm`` is given, before the feed-forward.
        feedforward_norm: norm before the feed-forward; null: both sublayers read the output of ``norm``.
        dropout: probability of zeroing an element of a sublayer's output during training.
    """

    paper = "Wang & Komatsuzaki, 2021 (GPT-J); two norms: Black et al., 2022, arXiv:2204.06745"
    formula = "y = x + mixer(norm(x)) + feedforward(norm(x))"
    intermediates = described(
        output=Intermediate(
            "The stream after both sublayers, which read the same vectors.",
            ("token", "width"),
            "y = x{mixer:+ mixer(norm(x))}{feedforward:+ feedforward(second_norm(x))}",
            ("input",),
        )
    )
    capabilities = Capabilities(places=frozenset({"causal", "bidirectional"}))

    def __init__(
        self,
        site: Site,
        *,
        mixer: Factory[Mixer] = MultiHeadAttention,
        feedforward: Factory[FeedForward] = MLP,
        norm: Factory[Norm] = LayerNorm,
        feedforward_norm: Factory[Norm] | None = None,
        dropout: Probability = 0.0,
    ) -> None:
        super().__init__(site)
        mixing = mixer(site)
        self.mixer = None if mixing.is_noop else mixing
        built = feedforward(site)
        self.feedforward = None if built.is_noop else built
        self.feedforward_norm = feedforward_norm(site) if feedforward_norm and not built.is_noop else None
        shared = self.feedforward is not None and self.feedforward_norm is None
        self.norm = norm(site) if self.mixer is not None or shared else None
        self.dropout = nn.Dropout(dropout)

    @property
    def second_norm(self) -> Norm | None:
        """The norm of what the feed-forward reads."""
        return self.feedforward_norm or self.norm

    @property
    def identity_at_zero(self) -> bool:
        return True

    def prepare(self, context: Context) -> None:
        if self.mixer is not None:
            self.mixer.prepare(context)
        if self.feedforward is not None:
            self.feedforward.prepare(context)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        y = x if self.norm is None else self.norm(x)
        mixed = x if self.mixer is None else x + self.dropout(self.mixer(y, context))
        if self.feedforward is None:
            return mixed
        return mixed + self.dropout(self.feedforward(y if self.feedforward_norm is None else self.feedforward_norm(x)))
