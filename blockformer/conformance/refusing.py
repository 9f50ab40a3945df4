"""What cannot be done is refused in words, not computed wrongly."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from blockformer.conformance.comparing import assert_same
from blockformer.conformance.example import example, memory_of
from blockformer.conformance.running import new_cache, run
from blockformer.conformance.subject import DIM, MAX_LENGTH, Subject


def check_refuses_masks_of_another_shape(subject: Subject) -> None:
    """A padding mask or documents that do not fit the tokens are named, with both shapes."""
    block, given = subject.build(), example(subject)
    wrong = torch.ones(2, 3, dtype=torch.bool)
    refuses(lambda: run(block, replace(given, mask=wrong)), "(2, 3)", "(2, 5)")
    if given.memory is None:
        refuses(lambda: run(block, replace(given, documents=wrong.long())), "(2, 3)", "(2, 5)")


def check_refuses_masks_of_numbers(subject: Subject) -> None:
    """A mask of 0 and -inf, to be added to scores, would say the opposite if taken for one of True and False."""
    block, given = subject.build(), example(subject)
    refuses(lambda: run(block, replace(given, mask=torch.zeros(given.x.shape[:2]))), "attention_mask", "float32")


def check_refuses_vectors_of_another_width(subject: Subject) -> None:
    """Vectors that are too narrow or too wide are refused with a number, unless any width will do; never repeated."""
    block, given = subject.build(), example(subject)
    for width in (1, DIM // 2, DIM + 8):
        x = given.x[..., :1].expand(*given.x.shape[:-1], width)
        outcome = _outcome(lambda x=x: run(block, replace(given, x=x)), RuntimeError)  # torch names shapes of products
        if isinstance(outcome, str):
            named = str(DIM) in outcome or str(width) in outcome
            assert named, f"vectors of {width} channels are refused without a number: {outcome}"
        else:
            assert outcome.shape == x.shape, f"vectors of {width} channels gave {tuple(outcome.shape)}"


def check_refuses_documents_with_a_cache(subject: Subject) -> None:
    """Decoding continues one text a row."""
    block, given = subject.build(), example(subject)
    documents = torch.zeros(given.x.shape[:2], dtype=torch.long)
    refuses(lambda: run(block, replace(given, documents=documents), new_cache(block)), "documents", "cache")


def check_refuses_a_missing_memory(subject: Subject) -> None:
    """What looks at an encoder's output says so when there is none."""
    block, given = subject.build(), example(subject)
    refuses(lambda: run(block, replace(given, memory=None)), "memory")


def check_refuses_a_memory_of_other_rows(subject: Subject) -> None:
    """An encoder's output for more or fewer texts than there are is named, not repeated."""
    block, given = subject.build(), example(subject)
    for rows in (1, 3):
        memory = memory_of(example(subject, seed=1, batch=3))[:rows]
        refuses(lambda memory=memory: run(block, replace(given, memory=memory)), "memory", str(rows))


def check_decodes_no_further_than_it_reads(subject: Subject) -> None:
    """Beyond ``max_length``, a text that is decoded is refused just where one forward refuses it, or gives the same."""
    block, given = subject.build(), example(subject, length=MAX_LENGTH + 2)
    cache = new_cache(block)
    run(block, given.span(0, MAX_LENGTH - 1), cache)
    for time in range(MAX_LENGTH - 1, MAX_LENGTH + 2):
        whole = _outcome(lambda time=time: run(block, given.span(0, time + 1)))
        step = _outcome(lambda time=time: run(block, given.span(time, time + 1), cache))
        if isinstance(whole, str) or isinstance(step, str):
            assert isinstance(whole, str) == isinstance(step, str), f"token {time}: {whole} {step}"
            assert str(MAX_LENGTH) in str(step), f"refused without the limit: {step}"
            return
        assert_same(step, whole[:, -1:], f"token {time}, decoded")


def check_takes_its_full_length(subject: Subject) -> None:
    """A text of ``max_length`` tokens gives finite values."""
    assert bool(torch.isfinite(run(subject.build(), example(subject, length=MAX_LENGTH))).all())


def refuses(call: Callable[[], Tensor], *words: str) -> None:
    """Assert that a call raises ValueError with all the words in its message."""
    outcome = _outcome(call)
    assert isinstance(outcome, str), f"taken, but should be refused with a word about {words[0]}"
    missing = [word for word in words if word not in outcome]
    assert not missing, f"refused without a word about {missing[0]}: {outcome}"


def _outcome(call: Callable[[], Tensor], *others: type[Exception]) -> Tensor | str:
    """What comes out, or the words with which it is refused: by a ValueError, or by one of ``others``."""
    try:
        return call()
    except (ValueError, *others) as error:
        return str(error)
