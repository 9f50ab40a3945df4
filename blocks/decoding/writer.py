"""A model in the middle of writing."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from blocks.decoding.padding import pad_left
from blocks.models.base import Model
from blocks.models.decoder_only import DecoderOnly
from blocks.models.encoder_decoder import EncoderDecoder


class Writer:
    """Texts that a model writes side by side: give it the next tokens of each, it gives the logits of those that follow.

    Args:
        model: decoder_only or encoder_decoder, in evaluation mode.
        sources: N rows of ids that an encoder_decoder reads; they may differ in length.
        use_cache: remember keys and values; without, each step runs the whole text again, to the same effect.

    Raises:
        ValueError: the model cannot write, is in training mode, or sources are missing or misplaced.
    """

    def __init__(self, model: Model, sources: Sequence[Sequence[int]] | None = None, *, use_cache: bool = True) -> None:
        _check(model, sources)
        self.model = model
        self.device = next(model.parameters()).device
        self.cache = cast("DecoderOnly", model).new_cache() if use_cache else None
        self.memory: Tensor | None = None
        self.source_mask: Tensor | None = None
        self._seen: tuple[Tensor, Tensor | None] | None = None
        if sources is not None:
            source, self.source_mask = pad_left(sources, self.device)
            self.memory = cast("EncoderDecoder", model).encode(source, self.source_mask)

    def advance(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (N, V) of what follows ``tokens`` (N, T), which follow all given before.

        Args:
            tokens: next ids of each row.
            mask: (N, T) bool, False for padding; None: there is none.
        """
        if self.cache is None:
            tokens, mask = self._seen = _joined(self._seen, tokens, mask)
        return self._forward(tokens, mask)[:, -1]

    def keep(self, rows: Tensor) -> None:
        """Go on with the rows ``rows`` (N',) in this order; a row may be left out, or taken several times."""
        if self.cache is not None:
            self.cache.reorder(rows)
        if self._seen is not None:
            tokens, mask = self._seen
            self._seen = tokens[rows], None if mask is None else mask[rows]
        if self.memory is not None:
            self.memory = self.memory[rows]
        if self.source_mask is not None:
            self.source_mask = self.source_mask[rows]

    def _forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        if self.memory is None:
            return cast("DecoderOnly", self.model)(tokens, attention_mask=mask, cache=self.cache)
        return cast("EncoderDecoder", self.model).decode(tokens, self.memory, self.source_mask, mask, self.cache)


def room(model: Model, prompt: Sequence[int], max_new_tokens: int) -> int:
    """How many tokens may follow a prompt: no more than asked for, and the model is fed ``max_length`` tokens at most.

    Raises:
        ValueError: the prompt alone is longer, or none is asked for.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
    if len(prompt) > model.max_length:
        raise ValueError(f"the prompt has {len(prompt)} tokens, but the model's max_length is {model.max_length}")
    return min(max_new_tokens, model.max_length - len(prompt) + 1)


def _check(model: Model, sources: Sequence[Sequence[int]] | None) -> None:
    if model.kind not in ("decoder_only", "encoder_decoder"):
        raise ValueError(f"an {model.kind} model does not write from left to right")
    if model.training:
        raise ValueError("the model is in training mode, where dropout changes what it writes: call model.eval() first")
    if (sources is None) == (model.kind == "encoder_decoder"):
        raise ValueError(f"a model of kind {model.kind} {'needs sources' if sources is None else 'reads no sources'}")
    longest = max(map(len, sources), default=0) if sources is not None else 0
    if longest > model.max_length:
        raise ValueError(f"a source has {longest} tokens, but the model's max_length is {model.max_length}")


def _joined(seen: tuple[Tensor, Tensor | None] | None, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if seen is None:
        return tokens, mask
    before, mask_before = seen
    if mask is not None or mask_before is not None:
        whole = [torch.ones_like(t, dtype=torch.bool) if m is None else m for t, m in ((before, mask_before), (tokens, mask))]
        mask = torch.cat(whole, dim=1)
    return torch.cat([before, tokens], dim=1), mask
