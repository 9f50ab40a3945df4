"""A decoding session: a model, its cache and the sequences that it extends."""

from collections.abc import Collection, Sequence
from typing import cast

import torch
from torch import Tensor

from blockformer.generation.sampling import checked
from blocks.base import RotaryScaling, growth
from blocks.models.base import Model
from blocks.models.decoder_only import DecoderOnly
from blocks.models.encoder_decoder import EncoderDecoder

Ends = int | Collection[int] | None
"""The id that ends a sequence, or several of which each does; None: none does."""
Tokens = tuple[Tensor, Tensor | None]
"""(N, T) ids and their mask, None without padding."""


class DecodingSession:
    """Extend N sequences side by side: each call takes one new token a sequence and returns the next token's logits.

    Args:
        model: decoder_only or encoder_decoder, in evaluation mode.
        prompts: N rows of ids that the sequences begin with, of any lengths.
        sources: N rows of ids for the encoder of an encoder_decoder, of any lengths.
        use_cache: keep keys and values between calls. Without it, and for blocks that do not support a cache, each
            call runs the whole sequences again, with the same result.
        bidirectional_prompt: the tokens of a prompt depend on each other in both directions, as in training with the
            objective prefix_lm; a decoder_only whose blocks allow it.

    Raises:
        ValueError: the model cannot decode or is in training mode, or a row is missing, empty or too long.
    """

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Sequence[int]],
        sources: Sequence[Sequence[int]] | None = None,
        *,
        use_cache: bool = True,
        bidirectional_prompt: bool = False,
    ) -> None:
        _check(model, prompts, sources)
        if bidirectional_prompt and not (model.kind == "decoder_only" and model.allows("prefix")):
            raise ValueError("the prompt cannot be read in both directions: the model's blocks do not support a prefix")
        self.model, self.prompts = model, prompts
        self.device = next(model.parameters()).device
        self.cache = cast("DecoderOnly", model).new_cache() if use_cache and model.allows("cache") else None
        self._scalings = [
            module for module in model.modules() if isinstance(module, RotaryScaling) and module.depends_on_length
        ]
        self._prefix: Tensor | None = None
        if bidirectional_prompt:
            prompt, mask = pad_left(prompts, self.device)
            self._prefix = torch.ones_like(prompt, dtype=torch.bool) if mask is None else mask
        self.memory: Tensor | None = None
        self.source_mask: Tensor | None = None
        self._seen: Tokens | None = None
        if sources is not None:
            source, self.source_mask = pad_left(sources, self.device)
            self.memory = cast("EncoderDecoder", model).encode(source, self.source_mask)

    def begin(self) -> Tensor:
        """Run the prompts: logits (N, V) of the token after each."""
        return self._logits(*pad_left(self.prompts, self.device))

    def advance(self, tokens: Tensor) -> Tensor:
        """Append ``tokens`` (N,), one to each sequence: logits (N, V) of the token after each."""
        return self._logits(tokens[:, None], None)

    def keep(self, rows: Tensor) -> None:
        """Continue with the sequences ``rows`` (N',) in this order; rows may be dropped or repeated."""
        if self.cache is not None:
            self.cache.reorder(rows)
        if self._seen is not None:
            tokens, mask = self._seen
            self._seen = tokens[rows], None if mask is None else mask[rows]
        if self._prefix is not None:
            self._prefix = self._prefix[rows]
        if self.memory is not None:
            self.memory = self.memory[rows]
        if self.source_mask is not None:
            self.source_mask = self.source_mask[rows]

    def _logits(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        whole = _appended(self._seen, tokens, mask)
        if self.cache is None:
            tokens, mask = self._seen = whole
        elif self._scalings:
            self._seen = whole
            if self._invalidates_cache(whole, self.cache.length):
                self.cache, (tokens, mask) = cast("DecoderOnly", self.model).new_cache(), whole
        if self.memory is None:
            prefix = self._prefix_of(tokens)
            logits = cast("DecoderOnly", self.model)(tokens, attention_mask=mask, prefix=prefix, cache=self.cache)
        else:
            logits = cast("EncoderDecoder", self.model).decode(tokens, self.memory, self.source_mask, mask, self.cache)
        return checked(logits[:, -1])

    def _prefix_of(self, tokens: Tensor) -> Tensor | None:
        """(N, T) bool: which of these tokens are of a prompt that is read in both directions; None: none."""
        if self._prefix is None or (self.cache is not None and self.cache.length):
            return None
        return torch.nn.functional.pad(self._prefix, (0, tokens.shape[1] - self._prefix.shape[1]))

    def _invalidates_cache(self, whole: Tokens, before: int) -> bool:
        """Whether RoPE scaling changes between length ``before`` and now, so that cached keys are rotated wrongly."""
        tokens, mask = whole
        grown = growth(mask, before, tokens.shape[1])
        return any(scaling.invalidates_cache(*lengths) for scaling in self._scalings for lengths in grown)


def token_budget(model: Model, prompt: Sequence[int], max_new_tokens: int) -> int:
    """How many tokens can follow a prompt: ``max_new_tokens``, or fewer so that the input stays within ``max_length``.

    Raises:
        ValueError: ``max_new_tokens`` is below 1.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
    return min(max_new_tokens, model.max_length - len(prompt) + 1)


def ending(eos: Ends) -> frozenset[int]:
    """The ids that end a sequence."""
    return frozenset(() if eos is None else (eos,) if isinstance(eos, int) else eos)


def pad_left(rows: Sequence[Sequence[int]], device: torch.device | None = None) -> Tokens:
    """Pad rows of token ids on the left to one (B, T) tensor, so that all continue at the same column.

    Args:
        rows: B rows of at least one id each.
        device: where to put the tensors.

    Returns:
        (B, T) ids, 0 at padding, and the (B, T) bool mask that is False there; None if all rows have one length.

    Raises:
        ValueError: there is no row, or an empty one.
    """
    if not rows or not all(rows):
        raise ValueError("each prompt and each source needs at least one token, such as a start token")
    width = max(map(len, rows))
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    for row, ids in zip(tokens, rows, strict=True):
        row[width - len(ids) :] = torch.tensor(ids)
    if all(len(ids) == width for ids in rows):
        return tokens.to(device), None
    lengths = torch.tensor([len(ids) for ids in rows])
    mask = torch.arange(width) >= width - lengths[:, None]
    return tokens.to(device), mask.to(device)


def _check(model: Model, prompts: Sequence[Sequence[int]], sources: Sequence[Sequence[int]] | None) -> None:
    if model.kind not in ("decoder_only", "encoder_decoder"):
        raise ValueError(f"a model of kind {model.kind} cannot generate; use decoder_only or encoder_decoder")
    if model.pooled:
        raise ValueError("the model's head pools, so it gives one row for each text and cannot generate")
    if model.per_token:
        raise ValueError("the model's head gives some values for each token, not logits of ids, and cannot generate")
    if model.training:
        raise ValueError("the model is in training mode, where dropout is active: call model.eval() first")
    if (sources is None) == (model.kind == "encoder_decoder"):
        raise ValueError(f"a model of kind {model.kind} {'needs' if sources is None else 'takes no'} sources")
    if sources is not None and len(sources) != len(prompts):
        raise ValueError(f"there are {len(sources)} sources, but {len(prompts)} prompts")
    for name, rows in (("prompt", prompts), ("source", sources or ())):
        longest = max(map(len, rows), default=0)
        if longest > model.max_length:
            raise ValueError(f"a {name} has {longest} tokens, but the model's max_length is {model.max_length}")


def _appended(seen: Tokens | None, tokens: Tensor, mask: Tensor | None) -> Tokens:
    if seen is None:
        return tokens, mask
    before, mask_before = seen
    if mask is not None or mask_before is not None:
        mask = torch.cat([_mask_or_ones(before, mask_before), _mask_or_ones(tokens, mask)], dim=1)
    return torch.cat([before, tokens], dim=1), mask


def _mask_or_ones(tokens: Tensor, mask: Tensor | None) -> Tensor:
    return torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
