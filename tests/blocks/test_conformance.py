"""Every block passes every check that applies to it."""

from blocks.conformance import Check, Subject, checks, parametrize_checks, registered


@parametrize_checks(registered("blocks"))
def test_block(subject: Subject, check: Check) -> None:
    check(subject)


def test_every_slot_has_its_checks() -> None:
    found = {subject.slot: checks(subject) for subject in registered("blocks")}
    assert {"mixer", "feedforward", "norm", "model", "init"} <= set(found)
    assert min(map(len, found.values())) >= 4
