"""Encoder-decoder models."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from blocks.base import (
    AdapterFactory,
    Cache,
    Context,
    EmbeddingFactory,
    Factory,
    HeadFactory,
    Init,
    Site,
    SitelessFactory,
    Stack,
)
from blocks.embeddings.token import TokenEmbedding
from blocks.heads.tied import TiedHead
from blocks.init.schemes import Xavier
from blocks.models.base import Model, cached_per_token, width_of
from blocks.stacks.layers import LayerStack
from registry import Ability, Positive, register


@register("encoder_decoder")
class EncoderDecoder(Model):
    """Maps a source to a target: a bidirectional encoder, and a causal decoder that attends to its output.

    Args:
        dim: width of the residual stream, in both stacks.
        vocab_size: number of target token ids.
        source_vocab_size: number of source token ids; null: ``vocab_size``.
        max_length: longest source, in tokens.
        target_max_length: longest target, in tokens; null: ``max_length``.
        embedding: maps source ids to vectors.
        target_embedding: maps target ids to vectors; null: same as ``embedding``.
        share_tokens: use one token table for source and target.
        encoder: stack of layers for the source.
        decoder: stack of layers for the target, with cross mixers.
        head: maps vectors to logits; a tied head uses the target's token table.
        init: draws initial values.
        adapters: by pattern of projections' names, with * for any text, the trained change that is added to each, as in
            {"*.mixer.[qv]": lora}; null: none.
    """

    paper = "Vaswani et al., 2017, arXiv:1706.03762"
    formula = "h_t = decoder(y_1, ..., y_t, encoder(x)); p(y_(t+1)) = softmax(head(h_t))"
    kind = "encoder_decoder"

    def __init__(
        self,
        *,
        dim: Positive = 512,
        vocab_size: Positive = 32000,
        source_vocab_size: Positive | None = None,
        max_length: Positive = 512,
        target_max_length: Positive | None = None,
        embedding: EmbeddingFactory = TokenEmbedding,
        target_embedding: EmbeddingFactory | None = None,
        share_tokens: bool = True,
        encoder: Factory[Stack] = LayerStack,
        decoder: Factory[Stack] = LayerStack,
        head: HeadFactory = TiedHead,
        init: SitelessFactory[Init] = Xavier,
        adapters: Mapping[str, AdapterFactory] | None = None,
    ) -> None:
        super().__init__(dim=dim, vocab_size=vocab_size, max_length=max_length, init=init())
        source_size = source_vocab_size or vocab_size
        if share_tokens and source_size != vocab_size:
            raise ValueError(
                f"share_tokens needs equal vocabularies, but source_vocab_size={source_size} and "
                f"vocab_size={vocab_size}; make them equal or set share_tokens=false"
            )
        reading = Site(dim=dim, max_length=max_length, causal=False, width_multiplier=self.width_multiplier)
        self.target_max_length = target_max_length or max_length
        writing = replace(reading, causal=True, max_length=self.target_max_length)
        self.embedding = embedding(reading, source_size, None)
        shared = self.embedding.tokens if share_tokens else None
        self.target_embedding = (target_embedding or embedding)(writing, vocab_size, shared)
        self.encoder = encoder(reading)
        self.decoder = decoder(replace(writing, memory_dim=dim))
        self.head = head(writing, vocab_size, width_of(self.target_embedding))
        self.adapt(adapters)

    def allows(self, ability: Ability) -> bool:
        """Whether all blocks have an ability; for a cache, only those of the decoder."""
        if ability == "cache":
            return all(part.allows(ability) for part in (self.target_embedding, self.decoder, self.head))
        return super().allows(ability)

    def new_cache(self, *, windowed: bool = True) -> Cache:
        """An empty cache; pass it to successive calls of :meth:`decode`, each with the target tokens that follow.

        Args:
            windowed: drop keys that a window hides from all later queries.
        """
        return Cache(self.decoder.depth, windowed=windowed)

    @property
    def cached_per_token(self) -> int:
        """Cached elements per target token, over all layers, without those of the source."""
        return cached_per_token(self.decoder)

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        *,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
        hidden: bool = False,
    ) -> Tensor:
        """Logits of each next target token.

        Args:
            source: (B, S) ids.
            target: (B, T) ids, beginning with the start token.
            source_mask: (B, S) bool, True for a token, False for padding (on either side).
            target_mask: (B, T) bool, likewise.
            hidden: return the vectors before the head.

        Returns:
            (B, T, V), or with `hidden` (B, T, D).
        """
        return self.decode(target, self.encode(source, source_mask), source_mask, target_mask, hidden=hidden)

    @property
    def table(self) -> Tensor:
        return self.target_embedding.table

    def encode(self, source: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """Encode a source (B, S) to the memory (B, S, D)."""
        context = Context.of(source, attention_mask=source_mask)
        return self.encoder(self.embedding(source, context), context)

    def decode(
        self,
        target: Tensor,
        memory: Tensor,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
        cache: Cache | None = None,
        hidden: bool = False,
    ) -> Tensor:
        """Logits (B, T, V) of each next token of ``target`` (B, T), which continues the tokens in the cache.

        With `hidden` the vectors before the head, (B, T, D).
        """
        context = Context.of(target, attention_mask=target_mask, cache=cache)
        context.memory, context.memory_mask = memory, None if source_mask is None else source_mask.bool()
        x = self.decoder(self.target_embedding(target, context), context)
        if cache is not None:
            cache.advance(target.shape[1])
        x = self.head.pool(x, context)
        return x if hidden else self.logits(x)
