"""A model in the middle of writing."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from blockformer.generation.padding import pad_left
from blocks.base import RotaryScaling, growth
from blocks.models.base import Model
from blocks.models.decoder_only import DecoderOnly
from blocks.models.encoder_decoder import EncoderDecoder

Text = tuple[Tensor, Tensor | None]
"""(N, T) ids and their mask, None if there is no padding."""


class Writer:
    """Texts that a model writes side by side: told what each goes on with, it gives the logits of what follows.

    Args:
        model: decoder_only or encoder_decoder, in evaluation mode.
        prompts: N rows of ids that the texts begin with; they may differ in length.
        sources: N rows of ids that an encoder_decoder reads; they may differ in length.
        use_cache: remember keys and values; without, and where a block declares that it cannot, each step runs the
            whole text again, to the same effect.

    Raises:
        ValueError: the model cannot write, is in training mode, or a row is missing, misplaced, empty or too long.
    """

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Sequence[int]],
        sources: Sequence[Sequence[int]] | None = None,
        *,
        use_cache: bool = True,
    ) -> None:
        _check(model, prompts, sources)
        self.model, self.prompts = model, prompts
        self.device = next(model.parameters()).device
        self.cache = cast("DecoderOnly", model).new_cache() if use_cache and model.allows("cache") else None
        self._scalings = [module for module in model.modules() if isinstance(module, RotaryScaling) and module.grows]
        self.memory: Tensor | None = None
        self.source_mask: Tensor | None = None
        self._seen: Text | None = None
        if sources is not None:
            source, self.source_mask = pad_left(sources, self.device)
            self.memory = cast("EncoderDecoder", model).encode(source, self.source_mask)

    def begin(self) -> Tensor:
        """Logits (N, V) of what follows the prompts."""
        return self._after(*pad_left(self.prompts, self.device))

    def advance(self, tokens: Tensor) -> Tensor:
        """Logits (N, V) of what follows ``tokens`` (N,), one for each row, which follow all before."""
        return self._after(tokens[:, None], None)

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

    def _after(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        whole = _joined(self._seen, tokens, mask)
        if self.cache is None:
            tokens, mask = self._seen = whole
        elif self._scalings:
            self._seen = whole
            if self._changes(whole, self.cache.length):
                self.cache, (tokens, mask) = cast("DecoderOnly", self.model).new_cache(), whole
        if self.memory is None:
            logits = cast("DecoderOnly", self.model)(tokens, attention_mask=mask, cache=self.cache)
        else:
            logits = cast("EncoderDecoder", self.model).decode(tokens, self.memory, self.source_mask, mask, self.cache)
        return logits[:, -1]

    def _changes(self, whole: Text, before: int) -> bool:
        """Whether what the cache holds of the first ``before`` tokens is no longer right."""
        tokens, mask = whole
        grown = growth(mask, before, tokens.shape[1])
        return any(scaling.changes(*lengths) for scaling in self._scalings for lengths in grown)


def room(model: Model, prompt: Sequence[int], max_new_tokens: int) -> int:
    """How many tokens may follow a prompt: as many as asked for, while the model is fed no more than ``max_length``.

    Raises:
        ValueError: none is asked for.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
    return min(max_new_tokens, model.max_length - len(prompt) + 1)


def _check(model: Model, prompts: Sequence[Sequence[int]], sources: Sequence[Sequence[int]] | None) -> None:
    if model.kind not in ("decoder_only", "encoder_decoder"):
        raise ValueError(f"a model of kind {model.kind} does not write from left to right")
    if model.training:
        raise ValueError("the model is in training mode, where dropout changes its answers: call model.eval() first")
    if (sources is None) == (model.kind == "encoder_decoder"):
        raise ValueError(f"a model of kind {model.kind} {'needs sources' if sources is None else 'reads no sources'}")
    if sources is not None and len(sources) != len(prompts):
        raise ValueError(f"there are {len(sources)} sources, but {len(prompts)} prompts")
    for name, rows in (("prompt", prompts), ("source", sources or ())):
        longest = max(map(len, rows), default=0)
        if longest > model.max_length:
            raise ValueError(f"a {name} has {longest} tokens, but the model's max_length is {model.max_length}")


def _joined(seen: Text | None, tokens: Tensor, mask: Tensor | None) -> Text:
    if seen is None:
        return tokens, mask
    before, mask_before = seen
    if mask is not None or mask_before is not None:
        mask = torch.cat([_whole(before, mask_before), _whole(tokens, mask)], dim=1)
    return torch.cat([before, tokens], dim=1), mask


def _whole(tokens: Tensor, mask: Tensor | None) -> Tensor:
    return torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
