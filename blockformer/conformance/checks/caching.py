"""Decoding with a cache equals one forward; the cache has its declared size and the model's dtype."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from blockformer.conformance.block_case import MAX_LENGTH, BlockCase, NotApplicable
from blockformer.conformance.checks.capabilities import assert_refused, output_or_error
from blockformer.conformance.example import EXACT, Example, assert_same, example, new_cache, run
from blocks.base import Cache, Component, Lookup, Mixer, RotaryScaling
from blocks.models.base import Model

LENGTH = 8


def check_decodes_token_by_token(case: BlockCase) -> None:
    """Decoding one token at a time gives what one forward gives."""
    _assert_decodes(case, [1] * LENGTH)


def check_decodes_in_chunks(case: BlockCase) -> None:
    """Decoding in chunks gives what one forward gives: a long prompt first, several tokens later, an empty chunk."""
    for sizes in ([5, 1, 2], [1, 4, 3], [3, 0, 5]):
        _assert_decodes(case, sizes)


def check_decodes_a_padded_batch(case: BlockCase) -> None:
    """Left-padded prompts of different lengths are continued like each prompt alone."""
    block, given, other = case.build_perturbed(), example(case, batch=3, length=LENGTH), example(case, seed=1, batch=3)
    prompts = [given.rows([row]).span(0, 3 + row).padded(2 - row, 0, other.rows([row])) for row in range(3)]
    mask = torch.cat([prompt.mask for prompt in prompts if prompt.mask is not None])
    cache = new_cache(block)
    run(block, replace(given, x=torch.cat([prompt.x for prompt in prompts]), mask=mask), cache)
    for step in range(3):
        x = torch.cat([given.x[[row], 3 + row + step][:, None] for row in range(3)])
        y = run(block, replace(given, x=x), cache)
        for row in range(3):
            stop = 4 + row + step
            alone = run(block, given.rows([row]).span(0, stop))[:, -1:]
            assert_same(y[[row]], alone, f"row {row}, token {stop - 1}")


def check_decodes_after_a_prefix(case: BlockCase) -> None:
    """A prefix in the first call is decoded on as in one forward; after cached tokens it is refused."""
    block, given = case.build_perturbed(), example(case, length=LENGTH)
    given = replace(given, prefix=(torch.arange(LENGTH) < 4).expand(given.x.shape[:2]))
    whole, cache = run(block, given), new_cache(block)
    assert_same(run(block, given.span(0, 5), cache), whole[:, :5], "the prefix and the first token after it")
    late = replace(given.span(5, 6), prefix=torch.ones(given.x.shape[0], 1, dtype=torch.bool))
    assert_refused(lambda: run(block, late, cache), "prefix", "cached")
    for time in range(5, LENGTH):
        y = run(block, replace(given.span(time, time + 1), prefix=None), cache)
        assert_same(y, whole[:, time : time + 1], f"token {time}, decoded after a prefix")


def check_decodes_after_reordering_the_cache(case: BlockCase) -> None:
    """After ``cache.reorder(rows)``, as in beam search, decoding continues the selected rows."""
    block, given = case.build_perturbed(), example(case, length=LENGTH)
    cache = new_cache(block)
    run(block, given.span(0, 4), cache)
    for rows, start in (([1, 1, 0], 4), ([2, 0], 6)):
        cache.reorder(torch.tensor(rows))
        given = given.rows(rows)
        y = run(block, given.span(start, start + 2), cache)
        assert_same(y, run(block, given.span(0, start + 2))[:, start:], f"after reorder({rows})")


def check_is_causal_with_a_cache(case: BlockCase) -> None:
    """Outputs of earlier chunks do not depend on later chunks, to the last bit."""
    block, given = case.build_perturbed(), example(case, length=LENGTH)
    changed = given.with_tail(5, example(case, seed=1, length=LENGTH))
    first, second = _decoded(block, given, [3, 2, 3])[0], _decoded(block, changed, [3, 2, 3])[0]
    assert torch.equal(first[:, :5], second[:, :5]), "an earlier chunk depends on a later one"


def check_decoding_has_the_same_length_limit(case: BlockCase) -> None:
    """Beyond ``max_length``, decoding gives what one forward gives, or both are refused at the same length."""
    block, given = case.build_perturbed(), example(case, length=MAX_LENGTH + 2)
    cache = new_cache(block)
    run(block, given.span(0, MAX_LENGTH - 1), cache)
    for time in range(MAX_LENGTH - 1, MAX_LENGTH + 2):
        whole = output_or_error(lambda time=time: run(block, given.span(0, time + 1)))
        step = output_or_error(lambda time=time: run(block, given.span(time, time + 1), cache))
        if isinstance(whole, str) or isinstance(step, str):
            assert isinstance(whole, str) == isinstance(step, str), f"only one refuses token {time}: {whole} {step}"
            assert str(MAX_LENGTH) in str(step), f"the error does not mention {MAX_LENGTH}: {step}"
            return
        assert_same(step, whole[:, -1:], f"token {time}, decoded")


def check_refuses_an_invalidated_cache(case: BlockCase) -> None:
    """Where rotary angles depend on the length of the text, a cache that a new length invalidates is refused."""
    block = case.build_perturbed()
    length = next(invalidating_lengths(block))
    given, cache = example(case, length=length + 1), new_cache(block)
    run(block, given.span(0, length), cache)
    assert_refused(lambda: run(block, given.span(length, length + 1), cache), "cached keys", "new cache")


def check_cache_size_is_as_declared(case: BlockCase) -> None:
    """A cache holds ``cached_per_sequence`` numbers per row and ``cached_per_token`` per token, at most a window."""
    block, memory = case.build_perturbed(), 4
    for length in (LENGTH, 2 * LENGTH):
        given = example(case, length=length, memory_length=memory)
        declared = _declared_size(block, length, memory) * given.x.shape[0]
        held = _size(_decoded(block, given, [length])[1])
        assert held == declared, f"{length} tokens: the cache holds {held} numbers, {declared} are declared"


def check_cache_takes_at_most_twice_its_size(case: BlockCase) -> None:
    """Token by token, a cache takes at most twice its declared size, so that it may grow by doubling."""
    block = case.build_perturbed()
    given = example(case, length=2 * LENGTH)
    memory = 0 if given.memory is None else given.memory.shape[1]
    declared = _declared_size(block, 2 * LENGTH, memory) * given.x.shape[0]
    held = _size(_decoded(block, given, [1] * 2 * LENGTH)[1])
    assert held <= 2 * declared, f"the cache holds {held} numbers, more than twice the declared {declared}"


def check_cache_keeps_dtype_and_device(case: BlockCase) -> None:
    """Cached tensors have the device and the dtype of the model; a recurrent state may be float32 instead."""
    found = 0
    for dtype in (torch.float64, torch.bfloat16):
        block = case.build_perturbed(dtype)
        given = example(case, length=LENGTH, dtype=dtype)
        allowed = {dtype, torch.promote_types(dtype, torch.float32)}
        for name, tensor in _tensors(_decoded(block, given, [4, 2])[1]):
            found += 1
            right = tensor.dtype in allowed or not tensor.is_floating_point()
            assert right, f"{name} is kept in {tensor.dtype}, the model is in {dtype}"
            assert tensor.device == given.x.device, f"{name} is kept on {tensor.device}"
    if not found:
        raise NotApplicable("the cache holds no tensors")


def check_new_cache_starts_empty(case: BlockCase) -> None:
    """With a new cache, a text gives the same after another text as before it."""
    block, given = case.build_perturbed(), example(case)
    expected = run(block, given, new_cache(block))
    run(block, example(case, seed=1), new_cache(block))
    assert_same(run(block, given, new_cache(block)), expected, "the same text in another cache", EXACT)


def invalidating_lengths(block: Component) -> Iterator[int]:
    """Lengths at which one more token changes the rotary angles of all earlier tokens."""
    scalings = [module for module in block.modules() if isinstance(module, RotaryScaling)]
    lengths = range(1, 2 * MAX_LENGTH)
    return (length for length in lengths if any(scaling.invalidates_cache(length, length + 1) for scaling in scalings))


def _assert_decodes(case: BlockCase, sizes: list[int]) -> None:
    block, given = case.build_perturbed(), example(case, length=sum(sizes))
    assert_same(_decoded(block, given, sizes)[0], run(block, given), f"decoded in chunks of {sizes}")


def _decoded(block: Component, given: Example, sizes: list[int]) -> tuple[Tensor, Cache]:
    """The outputs of decoding in chunks of ``sizes``, and the cache afterwards."""
    cache, start, found = new_cache(block), 0, list[Tensor]()
    for size in sizes:
        found.append(run(block, given.span(start, start + size), cache))
        start += size
    return torch.cat(found, dim=1), cache


def _declared_size(block: Component, length: int, memory: int) -> int:
    """Numbers per row that the mixers of a block declare to cache."""
    part: Any = block if isinstance(block, Mixer) else cast("Any", block).decoder
    repeats, mixers = getattr(part, "repeats", 1), [module for module in part.modules() if isinstance(module, Mixer)]
    own = [mixer for mixer in mixers if mixer.site is None or mixer.site.memory_dim is None]
    if isinstance(block, Model):
        per_token = sum(mixer.cached_per_token for mixer in own)
        assert cast("Any", block).cached_per_token == repeats * per_token, "the model's cached_per_token is not the sum"
    of_tokens = sum(mixer.cached_per_token * min(length, mixer.window or length) for mixer in own)
    of_memory = memory * sum(mixer.cached_per_token for mixer in mixers if mixer not in own)
    parts = [module for module in part.modules() if isinstance(module, Mixer | Lookup)]
    return repeats * (of_tokens + of_memory + sum(one.cached_per_sequence for one in parts))


def _tensors(cache: Cache) -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    for index, layer in enumerate(cache.layers):
        for state in layer.values():
            found += [(f"{key} of layer {index}", v) for key, v in vars(state).items() if isinstance(v, Tensor)]
    return found


def _size(cache: Cache) -> int:
    return sum(tensor.numel() for _, tensor in _tensors(cache))
