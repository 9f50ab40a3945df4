"""What cannot be done is refused in words, not computed wrongly."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from blocks.conformance.example import example
from blocks.conformance.running import new_cache, run
from blocks.conformance.subject import MAX_LENGTH, Subject


def check_refuses_masks_of_another_shape(subject: Subject) -> None:
    """A padding mask or documents that do not fit the tokens are named, with both shapes."""
    block, given = subject.build(), example(subject)
    wrong = torch.ones(2, 3, dtype=torch.bool)
    _refuses(lambda: run(block, replace(given, mask=wrong)), "(2, 3)", "(2, 5)")
    if given.memory is None:
        _refuses(lambda: run(block, replace(given, documents=wrong.long())), "(2, 3)", "(2, 5)")


def check_refuses_documents_with_a_cache(subject: Subject) -> None:
    """Decoding continues one text a row."""
    block, given = subject.build(), example(subject)
    documents = torch.zeros(given.x.shape[:2], dtype=torch.long)
    _refuses(lambda: run(block, replace(given, documents=documents), new_cache(block)), "documents", "cache")


def check_refuses_a_missing_memory(subject: Subject) -> None:
    """What looks at an encoder's output says so when there is none."""
    block, given = subject.build(), example(subject)
    _refuses(lambda: run(block, replace(given, memory=None)), "memory")


def check_takes_its_full_length(subject: Subject) -> None:
    """``max_length`` tokens work; more do too, or are refused with both numbers."""
    block = subject.build()
    assert bool(torch.isfinite(run(block, example(subject, length=MAX_LENGTH))).all())
    longer = example(subject, length=MAX_LENGTH + 1)
    outcome = _outcome(lambda: run(block, longer))
    if isinstance(outcome, str):
        both = str(MAX_LENGTH) in outcome and str(MAX_LENGTH + 1) in outcome
        assert both, f"refused without both numbers: {outcome}"
    else:
        assert bool(torch.isfinite(outcome).all()), f"{MAX_LENGTH + 1} tokens give values that are not finite"


def _refuses(call: Callable[[], Tensor], *words: str) -> None:
    outcome = _outcome(call)
    assert isinstance(outcome, str), f"taken, but should be refused with a word about {words[0]}"
    missing = [word for word in words if word not in outcome]
    assert not missing, f"refused without a word about {missing[0]}: {outcome}"


def _outcome(call: Callable[[], Tensor]) -> Tensor | str:
    """What comes out, or the words with which it is refused."""
    try:
        return call()
    except ValueError as error:
        return str(error)
