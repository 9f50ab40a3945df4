"""Decoder-only language models."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from blocks.base import (
    AdapterFactory,
    Cache,
    Context,
    EmbeddingFactory,
    ExtraPrediction,
    Factory,
    HeadFactory,
    Init,
    Site,
    SitelessFactory,
    Stack,
)
from blocks.embeddings.token import TokenEmbedding
from blocks.heads.tied import TiedHead
from blocks.init.schemes import Normal
from blocks.models.base import Model, cached_per_token, width_of
from blocks.stacks.layers import LayerStack
from registry import Positive, register


@register("decoder_only")
class DecoderOnly(Model):
    """Predicts the next token: embedding, a causal stack, head.

    Args:
        dim: width of the residual stream.
        vocab_size: number of token ids.
        max_length: longest sequence, in tokens.
        embedding: maps token ids to vectors.
        decoder: stack of layers.
        head: maps vectors to logits.
        init: draws initial values.
        extra_predictions: predictions of the token after the next one, of the one after that, and so on, by the same
            head, such as [sequential, sequential]; the objective multi_token_prediction trains them, and nothing else
            runs them.
        adapters: by pattern of projections' names, with * for any text, the trained change that is added to each, as in
            {"*.mixer.[qv]": lora}; null: none.
    """

    paper = "Liu et al., 2018, arXiv:1801.10198; Radford et al., 2018"
    formula = "h_t = decoder(x_1, ..., x_t); p(x_(t+1)) = softmax(head(h_t))"
    kind = "decoder_only"

    def __init__(
        self,
        *,
        dim: Positive = 512,
        vocab_size: Positive = 32000,
        max_length: Positive = 2048,
        embedding: EmbeddingFactory = TokenEmbedding,
        decoder: Factory[Stack] = LayerStack,
        head: HeadFactory = TiedHead,
        init: SitelessFactory[Init] = Normal,
        extra_predictions: tuple[Factory[ExtraPrediction], ...] = (),
        adapters: Mapping[str, AdapterFactory] | None = None,
    ) -> None:
        super().__init__(dim=dim, vocab_size=vocab_size, max_length=max_length, init=init())
        site = Site(dim=dim, max_length=max_length, causal=True, width_multiplier=self.width_multiplier)
        self.embedding = embedding(site, vocab_size, None)
        self.decoder = decoder(site)
        self.head = head(site, vocab_size, width_of(self.embedding))
        sites = (replace(site, depth=len(extra_predictions), layer=index) for index in range(len(extra_predictions)))
        self.extra_predictions = nn.ModuleList(make(own) for make, own in zip(extra_predictions, sites, strict=True))
        self.adapt(adapters)

    @property
    def table(self) -> Tensor:
        return self.embedding.table

    def new_cache(self, *, windowed: bool = True) -> Cache:
        """An empty cache; pass it to successive calls, each with the tokens that follow.

        Args:
            windowed: drop keys that a window hides from all later queries.
        """
        return Cache(self.decoder.depth, windowed=windowed)

    @property
    def cached_per_token(self) -> int:
        """Cached elements per token, over all layers."""
        return cached_per_token(self.decoder)

    def forward(
        self,
        tokens: Tensor,
        *,
        attention_mask: Tensor | None = None,
        documents: Tensor | None = None,
        prefix: Tensor | None = None,
        positions: Tensor | None = None,
        cache: Cache | None = None,
        hidden: bool = False,
        extra: bool = False,
    ) -> Tensor:
        """Logits of each next token.

        Args:
            tokens: (B, T) ids.
            attention_mask: (B, T) bool, True for a token, False for padding (on either side).
            documents: (B, T) int, equal for tokens of a document; attention and positions stay within documents.
            prefix: (B, T) bool, True for tokens that all tokens of their document attend to, earlier ones too; with a
                cache, in the first call only.
            positions: (B, T) or (T,) int; None: counted from 0.
            cache: from :meth:`new_cache`, with the tokens before these; None: no cache.
            hidden: return the vectors before the head.
            extra: run the extra predictions too, without a cache.

        Returns:
            (B, T, V), or with `hidden` (B, T, D). With `extra` (1 + N, B, T, ...): for the next token and for the token
            at each of the N places after it, of which those in other documents or beyond the row have no meaning.
        """
        masks = {"attention_mask": attention_mask, "documents": documents, "prefix": prefix}
        context = Context.of(tokens, **masks, positions=positions, cache=cache)
        embedded = self.embedding(tokens, context)
        x = self.decoder(embedded, context)
        if extra:
            x = self._with_extra(x, embedded, context)
        if cache is not None:
            cache.advance(tokens.shape[1])
        x = self.head.pool(x, context)
        return x if hidden else self.logits(x)

    def _with_extra(self, x: Tensor, embedded: Tensor, context: Context) -> Tensor:
        """(1 + N, B, T, D): the vectors for the next token, and of each extra prediction."""
        context.bias = None  # which is of the decoder's layers
        found = [x]
        for number, predict in enumerate(cast("list[ExtraPrediction]", self.extra_predictions), 1):
            found.append(predict(x, found[-1], embedded.roll(-number, dims=1), context))
        return torch.stack(found)

    def flops_per_token(self, length: int) -> float:
        return super().flops_per_token(length) + len(self.extra_predictions) * self.head.flops_per_token(length)
