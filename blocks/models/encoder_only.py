"""Encoder-only models."""

from collections.abc import Mapping

from torch import Tensor

from blocks.base import (
    AdapterFactory,
    Context,
    EmbeddingFactory,
    Factory,
    Generator,
    GeneratorFactory,
    HeadFactory,
    Init,
    Site,
    SitelessFactory,
    Stack,
    check_features,
)
from blocks.embeddings.token import TokenEmbedding
from blocks.heads.tied import TiedHead
from blocks.init.schemes import Normal
from blocks.models.base import Model, width_of
from blocks.stacks.layers import LayerStack
from registry import Positive, register


@register("encoder_only")
class EncoderOnly(Model):
    """Predicts tokens from context on both sides: embedding, a bidirectional stack, head.

    Args:
        dim: width of the residual stream.
        vocab_size: number of token ids.
        max_length: longest sequence, in tokens.
        embedding: maps token ids to vectors.
        encoder: stack of layers.
        head: maps vectors to logits.
        init: draws initial values.
        generator: a small model that proposes tokens in place of masked ones; the objective replaced_token_detection
            trains it, and nothing else runs it; null: none.
        adapters: by pattern of projections' names, with * for any text, the trained change that is added to each, as in
            {"*.mixer.[qv]": lora}; null: none.
    """

    paper = "Devlin et al., 2018, arXiv:1810.04805"
    formula = "h_1, ..., h_T = encoder(x_1, ..., x_T); p(x_t) = softmax(head(h_t))"
    kind = "encoder_only"

    def __init__(
        self,
        *,
        dim: Positive = 512,
        vocab_size: Positive = 32000,
        max_length: Positive = 512,
        embedding: EmbeddingFactory = TokenEmbedding,
        encoder: Factory[Stack] = LayerStack,
        head: HeadFactory = TiedHead,
        init: SitelessFactory[Init] = Normal,
        generator: GeneratorFactory | None = None,
        adapters: Mapping[str, AdapterFactory] | None = None,
    ) -> None:
        super().__init__(dim=dim, vocab_size=vocab_size, max_length=max_length, init=init())
        site = Site(dim=dim, max_length=max_length, causal=False, width_multiplier=self.width_multiplier)
        self.embedding = embedding(site, vocab_size, None)
        self.encoder = encoder(site)
        self.head = head(site, vocab_size, width_of(self.embedding))
        if generator is not None and self.init.base_width is not None:
            raise ValueError("generator does not support an init with base_width; choose another init")
        self.generator: Generator | None = None
        if generator is not None:
            self.generator = generator(site, vocab_size, width_of(self.embedding))
        self.adapt(adapters)

    def forward(
        self,
        tokens: Tensor,
        *,
        segments: Tensor | None = None,
        attention_mask: Tensor | None = None,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
        hidden: bool = False,
        propose: bool = False,
        features: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Logits of the token at each position.

        Args:
            tokens: (B, T) ids.
            segments: (B, T) segment ids; None: all 0.
            attention_mask: (B, T) bool, True for a token, False for padding (on either side).
            documents: (B, T) int, equal for tokens of a document; attention and positions stay within documents.
            positions: (B, T) or (T,) int; None: counted from 0.
            hidden: return the vectors before the head.
            propose: run the generator in place of the encoder and the head.
            features: ids besides those of the tokens that blocks of the model read, by name; None: all 0.

        Returns:
            (B, T, V), or with `hidden` (B, T, D); of the generator (B, T, V), or with `hidden` (B, T, d).
        """
        context = Context.of(tokens, attention_mask=attention_mask, documents=documents, positions=positions)
        if features is not None:
            check_features(features, self.features)
            context.features = features
        embedded = self.embedding(tokens, context, segments)
        if propose:
            return self._proposed(embedded, context, hidden=hidden)
        x = self.head.pool(self.encoder(embedded, context), context)
        return x if hidden else self.logits(x)

    def _proposed(self, embedded: Tensor, context: Context, *, hidden: bool) -> Tensor:
        """What the generator makes of embedded tokens.

        Raises:
            ValueError: the model has none.
        """
        if self.generator is None:
            raise ValueError("the model has no generator; set generator in its recipe")
        x = self.generator(embedded, context)
        return x if hidden else self.generator.logits(x, self.table)

    @property
    def table(self) -> Tensor:
        return self.embedding.table

    def encode(
        self,
        tokens: Tensor,
        segments: Tensor | None = None,
        attention_mask: Tensor | None = None,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """The vectors of the tokens, (B, T, D), also with a head that pools; arguments as in :meth:`forward`."""
        context = Context.of(tokens, attention_mask=attention_mask, documents=documents, positions=positions)
        return self.encoder(self.embedding(tokens, context, segments), context)
