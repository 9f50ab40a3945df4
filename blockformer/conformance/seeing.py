"""What an output may depend on."""

from dataclasses import replace

import torch

from blockformer.conformance.comparing import assert_same, influence, pairs_in, sensitivity
from blockformer.conformance.example import example, memory_of
from blockformer.conformance.running import run
from blockformer.conformance.subject import Subject


def check_sees_no_future(subject: Subject) -> None:
    """Other later tokens leave earlier outputs the same to the last bit, and derivatives by them are exactly zero."""
    block, given = subject.build(), example(subject)
    found = {"a change": influence(subject, block, given)}
    if not subject.reads_ids:
        found["the derivative"] = sensitivity(block, given)
    for how, table in found.items():
        leaks = pairs_in(table.triu(1))
        assert not leaks, f"by {how}, output {leaks[0][0]} depends on input {leaks[0][1]}, which comes later"


def check_sees_itself(subject: Subject) -> None:
    """Each output depends on its own token."""
    table = influence(subject, subject.build(), example(subject))
    blind = [time for time in range(len(table)) if not table[time, time]]
    assert not blind, f"outputs {blind} do not depend on their own tokens"


def check_treats_each_token_alone(subject: Subject) -> None:
    """An output depends on the token at its place and on no other."""
    table = influence(subject, subject.build(), example(subject))
    others = pairs_in(table & ~torch.eye(len(table), dtype=torch.bool))
    assert not others, f"output {others[0][0]} depends on input {others[0][1]}"


def check_reads_the_memory(subject: Subject) -> None:
    """A cross mixer, or what holds one, depends on every token of the encoder's output."""
    block, given = subject.build(), example(subject)
    source, other = memory_of(given), memory_of(example(subject, seed=1))
    before = run(block, given)
    for time in range(source.shape[1]):
        memory = source.clone()
        memory[:, time] = other[:, time]
        after = run(block, replace(given, memory=memory))
        assert not torch.equal(after, before), f"token {time} of the memory makes no difference"


def check_treats_rows_alone(subject: Subject) -> None:
    """A row gives the same alone, in a batch, and in another order."""
    block, given = subject.build(), example(subject, batch=3)
    whole = run(block, given)
    for row in range(3):
        assert_same(run(block, given.rows([row])), whole[[row]], f"row {row} alone")
    assert_same(run(block, given.rows([2, 0, 1])), whole[[2, 0, 1]], "rows in another order")
