"""Padding, and what is left where nothing is."""

from dataclasses import replace

import torch

from blockformer.conformance.comparing import assert_same
from blockformer.conformance.example import Example, example, looks_at_memory, memory_of
from blockformer.conformance.gradients import gradients_of
from blockformer.conformance.running import run
from blockformer.conformance.subject import Subject


def check_ignores_padding(subject: Subject) -> None:
    """With padding of random content left, right or on both sides, the tokens give what they give without."""
    block, given, other = subject.build(), example(subject), example(subject, seed=1)
    length = given.x.shape[1]
    expected = run(block, given)
    for left, right in ((0, 3), (3, 0), (1, 2)):
        padded = run(block, given.padded(left, right, other))[:, left : left + length]
        assert_same(padded, expected, f"{left} padding tokens before and {right} after")


def check_ignores_padding_row_by_row(subject: Subject) -> None:
    """Rows of different lengths in one batch give what they give alone."""
    block, given, other = subject.build(), example(subject, batch=3), example(subject, seed=1, batch=3)
    rows = [given.rows([row]).span(0, 3 + row).padded(2 - row, 0, other.rows([row])) for row in range(3)]
    x = torch.cat([row.x for row in rows])
    masks = [row.mask for row in rows if row.mask is not None]
    whole = run(block, replace(given, x=x, mask=torch.cat(masks)))
    for row in range(3):
        alone = run(block, given.rows([row]).span(0, 3 + row))
        assert_same(whole[[row], 2 - row :], alone, f"row {row}, which has {2 - row} padding tokens before")


def check_ignores_padding_of_the_memory(subject: Subject) -> None:
    """Masked tokens of the encoder's output, or of the source, change nothing, wherever they stand."""
    block, given, other = subject.build(), example(subject), example(subject, seed=1)
    source, filler = memory_of(given), memory_of(other)
    expected, length = run(block, given), source.shape[1]
    for left, right in ((0, 2), (2, 0)):
        memory = torch.cat([filler[:, :left], source, filler[:, :right]], dim=1)
        mask = torch.zeros(memory.shape[:2], dtype=torch.bool)
        mask[:, left : left + length] = True
        y = run(block, replace(given, memory=memory, memory_mask=mask))
        assert_same(y, expected, f"{left} padding tokens before the memory and {right} after")


def check_survives_rows_of_padding(subject: Subject) -> None:
    """A row that is nothing but padding gives finite values and gradients, and leaves the other rows as they are."""
    block, given = subject.build(), example(subject)
    mask = torch.ones(given.x.shape[:2], dtype=torch.bool)
    mask[1] = False
    empty = replace(given, mask=mask)
    if looks_at_memory(subject) and given.memory is not None:
        empty = replace(empty, memory_mask=mask[:, :1].expand(given.memory.shape[:2]))
    y = run(block, empty)
    assert bool(torch.isfinite(y).all()), "a row of padding gives values that are not finite"
    assert_same(y[:1], run(block, given)[:1], "the row beside a row of padding")
    for name, gradient in gradients_of(block, empty).items():
        assert bool(torch.isfinite(gradient).all()), f"a row of padding makes the gradient of {name} not finite"


def check_keeps_documents_apart(subject: Subject) -> None:
    """Documents packed into a row give what they give in rows of their own, positions from 0 in each."""
    block, given = subject.build(), example(subject, length=7)
    documents = torch.tensor([[4, 4, 4, 9, 9, 1, 1]]).expand(given.x.shape[:2])
    packed = run(block, replace(given, documents=documents))
    for start, stop in ((0, 3), (3, 5), (5, 7)):
        alone = run(block, Example(given.x[:, start:stop]))
        assert_same(packed[:, start:stop], alone, f"the document at {start}:{stop}")
