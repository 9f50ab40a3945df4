"""Which checks are expected to fail, and why."""

from collections.abc import Iterable, Mapping

from blockformer.conformance.subject import Subject
from blockformer.conformance.table import Check, name_of
from registry import entries


class Expectations:
    """What a caller and the blocks themselves, by ``expected_failures``, say does not hold.

    Args:
        pairs: each block with each check that is to run.
        said: why a check does not hold, by its id, ``norm/my_norm: takes_nothing``, or by its name, for all blocks.

    Raises:
        ValueError: a failure is expected of a check that is not there.
    """

    def __init__(self, pairs: Iterable[tuple[Subject, Check]], said: Mapping[str, str] | None) -> None:
        self.said = dict(said or {})
        known = {key for subject, check in pairs for key in _keys(subject, check)}
        if unknown := self.said.keys() - known:
            raise ValueError(f"no check is called {sorted(unknown)[0]!r}, of which a failure is expected")

    def reason(self, subject: Subject, check: Check) -> str | None:
        """Why the check does not hold; None if it should."""
        own = entries(subject.slot)[subject.name].block.expected_failures
        return next((told[key] for told in (self.said, own) for key in _keys(subject, check) if key in told), None)


def _keys(subject: Subject, check: Check) -> tuple[str, str]:
    return f"{subject.id}: {name_of(check)}", name_of(check)
