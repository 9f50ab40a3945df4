"""A decoding session: a model, its cache and the sequences that it extends."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from blockformer.generation.compiled_step import compiled_step
from blockformer.generation.sampling import checked
from blocks.base import Cache, RotaryScaling, growth
from blocks.base.cache import Mark
from blocks.models.base import Model
from blocks.models.decoder_only import DecoderOnly
from blocks.models.encoder_decoder import EncoderDecoder

Ends = int | Collection[int] | None
"""The id that ends a sequence, or several of which each does; None: none does."""
Tokens = tuple[Tensor, Tensor | None]
"""(N, T) ids and their mask, None without padding."""
CHUNK = 2048
"""Tokens of a prompt that are read at once by default."""


class SessionMark(NamedTuple):
    """A place in the history of a session, see :meth:`DecodingSession.mark`."""

    cache: Cache | None
    place: Mark | None
    seen: Tokens | None


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
        prompt_chunk: tokens of the prompts that are read at once, so that memory for scores is proportional to this
            times the length; None: 2048, or all of them where the prompts cannot be read in parts.
        compile_for: compile the steps after the prompts with torch.compile, for at most this many new tokens, in
            buffers of fixed size; rows cannot be dropped then. None: not compiled.

    Raises:
        ValueError: the model cannot decode or is in training mode, a row is missing, empty or too long, or the model
            cannot be compiled or its prompts not be read in parts, and that was asked for.
    """

    def __init__(
        self,
        model: Model,
        prompts: Sequence[Sequence[int]],
        sources: Sequence[Sequence[int]] | None = None,
        *,
        use_cache: bool = True,
        bidirectional_prompt: bool = False,
        prompt_chunk: int | None = None,
        compile_for: int | None = None,
    ) -> None:
        _check(model, prompts, sources)
        if bidirectional_prompt and not (model.kind == "decoder_only" and model.allows("prefix")):
            raise ValueError("the prompt cannot be read in both directions: the model's blocks do not support a prefix")
        self.model, self.prompts = model, prompts
        self.device = next(model.parameters()).device
        self.cache: Cache | None = None
        if use_cache and model.allows("cache"):
            self.cache = cast("DecoderOnly", model).new_cache(windowed=compile_for is None)
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
        self._step: Callable[..., Tensor] | None = None
        longest = max(map(len, prompts), default=1)
        self._chunk = self._chunk_of(prompt_chunk, longest)
        self._capacity = None if compile_for is None else self._capacity_for(longest + max(compile_for - 1, 1))
        if sources is not None:
            source, self.source_mask = pad_left(sources, self.device)
            self.memory = cast("EncoderDecoder", model).encode(source, self.source_mask)

    def begin(self) -> Tensor:
        """Run the prompts: logits (N, V) of the token after each."""
        tokens, mask = pad_left(self.prompts, self.device)
        width, hidden = tokens.shape[1], None
        for start in range(0, width, self._chunk):
            part = slice(start, start + self._chunk)
            hidden = self._hidden(tokens[:, part], None if mask is None else mask[:, part])[:, -1]
        assert hidden is not None
        if self._capacity is not None and self.cache is not None:
            last = self.model.target_max_length - 1
            self.cache.fix(capacity=self._capacity, last=last, batch=len(tokens), device=self.device)
            self._step = compiled_step()
        return checked(self.model.logits(hidden))

    def advance(self, tokens: Tensor) -> Tensor:
        """Append ``tokens`` (N,), one to each sequence: logits (N, V) of the token after each."""
        if self._step is not None:
            given = () if self.memory is None else (self.memory, self.source_mask)
            return checked(self._step(self.model, tokens[:, None], self.cache, *given))
        return checked(self.model.logits(self._hidden(tokens[:, None], None)[:, -1]))

    def extend(self, tokens: Tensor) -> Tensor:
        """Append ``tokens`` (N, T), T to each sequence: logits (N, T, V) of the token after each of them."""
        return checked(self.model.logits(self._hidden(tokens, None)[:, -tokens.shape[1] :]))

    @property
    def rows_are_fixed(self) -> bool:
        """Whether :meth:`keep` would need another program."""
        return self._capacity is not None

    def mark(self) -> SessionMark:
        """The present place, for :meth:`restore`.

        Raises:
            ValueError: a block's cache cannot go back.
        """
        return SessionMark(self.cache, None if self.cache is None else self.cache.mark(), self._seen)

    def restore(self, mark: SessionMark, kept: int = 0) -> int:
        """Forget what followed a mark but the first ``kept`` tokens, or all of it if the cache cannot keep any.

        Returns:
            How many are kept, ``kept`` or 0.
        """
        if mark.cache is not None and mark.place is not None:
            kept = mark.cache.restore(mark.place, kept if self.cache is mark.cache else 0)
            self.cache = mark.cache
        if mark.seen is not None and self._seen is not None:
            end = mark.seen[0].shape[1] + kept
            tokens, mask = self._seen
            self._seen = tokens[:, :end], None if mask is None else mask[:, :end]
        return kept

    def grows_evenly(self, tokens: int) -> bool:
        """Whether ``tokens`` more tokens get the same logits at once as one by one: no RoPE scaling changes between."""
        if not self._scalings or self._seen is None:
            return True
        ids, mask = self._seen
        lengths = [ids.shape[1]] if mask is None else cast("list[int]", cast("Any", mask.sum(dim=1)).tolist())
        return not any(
            scaling.invalidates_cache(length, length + tokens) for scaling in self._scalings for length in lengths
        )

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

    def _chunk_of(self, given: int | None, longest: int) -> int:
        """Tokens of the prompts that are read at once."""
        if given is not None and given < 1:
            raise ValueError(f"prompt_chunk={given} must be at least 1")
        reason = None
        if self.cache is None:
            reason = "without a cache"
        elif self._prefix is not None:
            reason = "whose tokens depend on each other in both directions"
        elif any(scaling.invalidates_cache(1, longest) for scaling in self._scalings):
            reason = f"of {longest} tokens, at which the RoPE scaling changes,"
        if reason is None:
            return given or CHUNK
        if given is not None and given < longest:
            raise ValueError(f"prompt_chunk={given}: a prompt {reason} cannot be read in parts; leave prompt_chunk out")
        return longest

    def _capacity_for(self, length: int) -> int:
        """Size of compiled buffers, a power of two, so that few sizes are compiled."""
        if self.cache is None or self._scalings:
            reason = "it has no cache" if self.cache is None else "its RoPE scaling depends on the length"
            raise ValueError(f"the model cannot be compiled for decoding: {reason}")
        return 2 ** (length - 1).bit_length()

    def _hidden(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Vectors (N, T, D) before the head, at least of these tokens, and without a cache of all."""
        whole = _appended(self._seen, tokens, mask)
        if self.cache is None:
            tokens, mask = self._seen = whole
        elif self._scalings:
            self._seen = whole
            if self._invalidates_cache(whole, self.cache.length):
                self.cache, (tokens, mask) = cast("DecoderOnly", self.model).new_cache(), whole
        if self.memory is None:
            prefix, model = self._prefix_of(tokens), cast("DecoderOnly", self.model)
            return model(tokens, attention_mask=mask, prefix=prefix, cache=self.cache, hidden=True)
        model = cast("EncoderDecoder", self.model)
        return model.decode(tokens, self.memory, self.source_mask, mask, self.cache, hidden=True)

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
    """How many tokens can follow a prompt: ``max_new_tokens``, or fewer to stay within the model's longest sequence.

    Raises:
        ValueError: ``max_new_tokens`` is below 1.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
    return min(max_new_tokens, model.target_max_length - len(prompt) + 1)


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
    limits = {"prompt": (prompts, *model.target_limit), "source": (sources or (), "max_length", model.max_length)}
    for name, (rows, key, most) in limits.items():
        longest = max(map(len, rows), default=0)
        if longest > most:
            raise ValueError(f"a {name} has {longest} tokens, but the model's {key} is {most}")


def _appended(seen: Tokens | None, tokens: Tensor, mask: Tensor | None) -> Tokens:
    if seen is None:
        return tokens, mask
    before, mask_before = seen
    if mask is not None or mask_before is not None:
        mask = torch.cat([_mask_or_ones(before, mask_before), _mask_or_ones(tokens, mask)], dim=1)
    return torch.cat([before, tokens], dim=1), mask


def _mask_or_ones(tokens: Tensor, mask: Tensor | None) -> Tensor:
    return torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
