"""What a cache keeps: as much as is said, in the model's precision, and nothing of an earlier text."""

from typing import Any, cast

import torch
from torch import Tensor

from blockformer.conformance.comparing import EXACT, assert_same
from blockformer.conformance.example import Example, example
from blockformer.conformance.running import new_cache, run
from blockformer.conformance.subject import Subject
from blocks.base import Cache, Component, Mixer
from blocks.models.base import Model

LENGTH = 6


def check_counts_its_cache(subject: Subject) -> None:
    """A cache holds cached_per_text numbers a row and cached_per_token more a token, whatever the length."""
    block, memory = subject.build(), 4
    for length in (LENGTH, 2 * LENGTH):
        given = example(subject, length=length, memory_length=memory)
        told = _told(block, length, memory) * given.x.shape[0]
        kept = _numbers(_filled(block, given, [length]))
        assert kept == told, f"{told} numbers told for {length} tokens, {kept} kept"


def check_keeps_its_cache_small(subject: Subject) -> None:
    """Token by token, a cache never takes more than twice what is counted: it may grow by doubling."""
    block = subject.build()
    given = example(subject, length=2 * LENGTH)
    memory = 0 if given.memory is None else given.memory.shape[1]
    told = _told(block, 2 * LENGTH, memory) * given.x.shape[0]
    kept = _numbers(_filled(block, given, [1] * 2 * LENGTH))
    assert kept <= 2 * told, f"{kept} numbers kept after decoding, more than twice the {told} told"


def check_keeps_its_cache_as_precise(subject: Subject) -> None:
    """What is kept has the precision of the model, or, of a recurrence, no less than float32; and its device."""
    for dtype in (torch.float64, torch.bfloat16):
        block = subject.build(dtype)
        given = example(subject, length=LENGTH, dtype=dtype)
        wanted = {dtype, torch.promote_types(dtype, torch.float32)}
        for name, tensor in _tensors(_filled(block, given, [4, 2])):
            precise = tensor.dtype in wanted or not tensor.is_floating_point()
            assert precise, f"{name} is kept in {tensor.dtype}, the model is in {dtype}"
            assert tensor.device == given.x.device, f"{name} is kept on {tensor.device}"


def check_begins_anew_with_a_new_cache(subject: Subject) -> None:
    """A text that follows another in a new cache gives what it gives alone."""
    block, given = subject.build(), example(subject)
    expected = run(block, given, new_cache(block))
    run(block, example(subject, seed=1), new_cache(block))
    assert_same(run(block, given, new_cache(block)), expected, "the same text in another cache", EXACT)


def _told(block: Component, length: int, memory: int) -> int:
    """Numbers a row."""
    mixers = _mixers(block)
    each = sum(repeats * mixer.cached_per_token for mixer, own, repeats in mixers if own)
    if isinstance(block, Model):
        each = int(cast("Any", block).cached_per_token)
    read = sum(repeats * mixer.cached_per_token for mixer, own, repeats in mixers if not own)
    return each * length + read * memory + sum(repeats * mixer.cached_per_text for mixer, _, repeats in mixers)


def _mixers(block: Component) -> list[tuple[Mixer, bool, int]]:
    """Each mixer that keeps something, whether it is of the text itself, and how often it runs."""
    part: Any = block if isinstance(block, Mixer) else cast("Any", block).decoder
    repeats = getattr(part, "repeats", 1)
    found = [module for module in part.modules() if isinstance(module, Mixer)]
    return [(mixer, mixer.site is None or mixer.site.memory_dim is None, repeats) for mixer in found]


def _filled(block: Component, given: Example, sizes: list[int]) -> Cache:
    cache, start = new_cache(block), 0
    for size in sizes:
        run(block, given.span(start, start + size), cache)
        start += size
    return cache


def _tensors(cache: Cache) -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    for index, layer in enumerate(cache.layers):
        for state in layer.values():
            found += [(f"{key} of layer {index}", v) for key, v in vars(state).items() if isinstance(v, Tensor)]
    return found


def _numbers(cache: Cache) -> int:
    return sum(tensor.numel() for _, tensor in _tensors(cache))
