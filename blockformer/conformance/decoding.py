"""Decoding with a cache gives what one forward gives."""

from dataclasses import replace

import torch

from blockformer.conformance.comparing import assert_same
from blockformer.conformance.example import Example, example
from blockformer.conformance.running import new_cache, run
from blockformer.conformance.subject import Subject
from blocks.base import Component

LENGTH = 8


def check_decodes_token_by_token(subject: Subject) -> None:
    """One token at a time gives what all at once give."""
    _compare(subject, [1] * LENGTH)


def check_decodes_in_chunks(subject: Subject) -> None:
    """So do chunks of any size: a long prompt first, more than one token later, an empty one between."""
    for sizes in ([5, 1, 2], [1, 4, 3], [3, 0, 5]):
        _compare(subject, sizes)


def check_decodes_a_padded_batch(subject: Subject) -> None:
    """Prompts of different lengths, padded on the left, are continued as each alone."""
    block, given, other = subject.build(), example(subject, batch=3, length=LENGTH), example(subject, seed=1, batch=3)
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


def check_follows_a_beam(subject: Subject) -> None:
    """After rows of the cache are chosen anew, decoding goes on as if it had been so from the start."""
    block, given = subject.build(), example(subject, length=LENGTH)
    cache = new_cache(block)
    run(block, given.span(0, 4), cache)
    for rows, start in (([1, 1, 0], 4), ([2, 0], 6)):
        cache.reorder(torch.tensor(rows))
        given = given.rows(rows)
        y = run(block, given.span(start, start + 2), cache)
        assert_same(y, run(block, given.span(0, start + 2))[:, start:], f"after choosing rows {rows}")


def check_sees_no_future_through_the_cache(subject: Subject) -> None:
    """What was decoded before does not know what comes after, to the last bit."""
    block, given = subject.build(), example(subject, length=LENGTH)
    changed = given.with_tail(5, example(subject, seed=1, length=LENGTH))
    first, second = _chunks(block, given, [3, 2, 3]), _chunks(block, changed, [3, 2, 3])
    assert torch.equal(first[:, :5], second[:, :5]), "an earlier chunk depends on a later one"


def _compare(subject: Subject, sizes: list[int]) -> None:
    block, given = subject.build(), example(subject, length=sum(sizes))
    assert_same(_chunks(block, given, sizes), run(block, given), f"decoded in chunks of {sizes}")


def _chunks(block: Component, given: Example, sizes: list[int]) -> torch.Tensor:
    cache, start, found = new_cache(block), 0, list[torch.Tensor]()
    for size in sizes:
        found.append(run(block, given.span(start, start + size), cache))
        start += size
    return torch.cat(found, dim=1)
