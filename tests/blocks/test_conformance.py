"""Every registered block passes every check that applies to it."""

import torch

from blocks.conformance import Check, Subject, parametrize_checks, subjects
from registry import entries, slots

torch.set_num_threads(1)
ALL = [subject for slot in slots() for name in entries(slot) for subject in subjects(slot, name)]


@parametrize_checks(ALL)
def test_block(subject: Subject, check: Check) -> None:
    check(subject)


def test_every_block_stands_somewhere() -> None:
    assert {(subject.slot, subject.name) for subject in ALL} >= {
        (slot, name) for slot in slots() for name in entries(slot)
    }
