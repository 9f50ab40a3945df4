"""What a block declares that it cannot do is refused in words; only the rest is asked of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch

from blockformer.conformance import caching, decoding, learning, padding, refusing, shaping
from blockformer.conformance.example import example
from blockformer.conformance.refusing import refuses
from blockformer.conformance.running import new_cache, run
from blockformer.conformance.subject import MAX_LENGTH, Subject
from blocks.base import Component, RotaryScaling
from registry import ABILITIES, Ability

Check = Callable[[Subject], None]


def check_refuses_padding(subject: Subject) -> None:
    """It declares that it takes no padding, and says so when there is some."""
    block, given = subject.build(), example(subject)
    masked = replace(given, mask=torch.ones(given.x.shape[:2], dtype=torch.bool))
    if subject.slot == "model" and given.memory is not None:  # what takes none may stand in either stack
        masked = replace(masked, memory_mask=torch.ones(given.memory.shape[:2], dtype=torch.bool))
    refuses(lambda: run(block, masked), "padding")


def check_refuses_documents(subject: Subject) -> None:
    """It declares that it keeps no documents apart, and says so when there are some."""
    block, given = subject.build(), example(subject)
    documents = torch.zeros(given.x.shape[:2], dtype=torch.long)
    refuses(lambda: run(block, replace(given, documents=documents)), "documents")


def check_refuses_a_cache(subject: Subject) -> None:
    """It declares that it cannot be decoded from a cache, and says so when there is one."""
    block, given = subject.build(), example(subject)
    refuses(lambda: run(block, given, new_cache(block)), "cache")


def check_refuses_longer_texts(subject: Subject) -> None:
    """It declares that it takes no text longer than ``max_length``, and says so with both numbers."""
    block, longer = subject.build(), example(subject, length=MAX_LENGTH + 1, memory_length=MAX_LENGTH + 1)
    refuses(lambda: run(block, longer), str(MAX_LENGTH), str(MAX_LENGTH + 1))


def check_takes_longer_texts(subject: Subject) -> None:
    """It does not declare a longest text, so one longer than ``max_length`` gives finite values."""
    block, longer = subject.build(), example(subject, length=2 * MAX_LENGTH)
    assert bool(torch.isfinite(run(block, longer)).all()), "longer texts give values that are not finite"


def check_reads_again_what_grows(subject: Subject) -> None:
    """Where rotary positions depend on how long the text becomes, a cache that is wrong from then on is refused."""
    block, length = subject.build(), next(growing(subject.build()))
    given, cache = example(subject, length=length + 1), new_cache(block)
    run(block, given.span(0, length), cache)
    refuses(lambda: run(block, given.span(length, length + 1), cache), "cache", "read it again")


def growing(block: Component) -> Iterator[int]:
    """Lengths of texts that one more token turns otherwise from the first token on."""
    scalings = [module for module in block.modules() if isinstance(module, RotaryScaling)]
    lengths = range(1, 2 * MAX_LENGTH)
    return (length for length in lengths if any(scaling.changes(length, length + 1) for scaling in scalings))


ASKED: Mapping[Ability, tuple[Check, ...]] = {
    "padding": (
        padding.check_ignores_padding,
        padding.check_ignores_padding_row_by_row,
        padding.check_ignores_padding_of_the_memory,
        shaping.check_leaves_its_inputs_alone,
        padding.check_survives_rows_of_padding,
        padding.check_ignores_padding_of_the_memory,
        decoding.check_decodes_a_padded_batch,
    ),
    "documents": (padding.check_keeps_documents_apart, refusing.check_refuses_documents_with_a_cache),
    "cache": (
        decoding.check_decodes_token_by_token,
        decoding.check_decodes_in_chunks,
        decoding.check_decodes_a_padded_batch,
        decoding.check_follows_a_beam,
        decoding.check_sees_no_future_through_the_cache,
        caching.check_counts_its_cache,
        caching.check_keeps_its_cache_small,
        caching.check_keeps_its_cache_as_precise,
        caching.check_begins_anew_with_a_new_cache,
        refusing.check_decodes_no_further_than_it_reads,
        refusing.check_refuses_documents_with_a_cache,
    ),
    "bfloat16": (shaping.check_works_in_bfloat16, learning.check_trains_in_bfloat16),
    "any_length": (check_takes_longer_texts,),
}
REFUSED: Mapping[Ability, Check] = {
    "padding": check_refuses_padding,
    "documents": check_refuses_documents,
    "cache": check_refuses_a_cache,
    "any_length": check_refuses_longer_texts,
}


def as_declared(subject: Subject, found: tuple[Check, ...]) -> tuple[Check, ...]:
    """The checks without those of what a block in it cannot, but with those of saying so."""
    with torch.device("meta"):
        block = subject.make()
    lacks: list[Ability] = [ability for ability in ABILITIES if not block.allows(ability)]
    grows, asked = any(growing(block)), {check for ability in lacks for check in ASKED[ability]}
    applying: list[Ability] = [ability for ability in lacks if set(ASKED[ability]) & set(found)]
    refusals = [REFUSED[ability] for ability in applying if ability in REFUSED]
    if grows and set(ASKED["cache"]) & set(found) - asked:
        asked |= set(ASKED["cache"])
        refusals.append(check_reads_again_what_grows)
    return (*(check for check in found if check not in asked), *refusals)
