"""The checks as tests of pytest."""

from collections.abc import Iterable, Mapping
from typing import Any

from blocks.conformance.subject import Subject, subjects
from blocks.conformance.table import Check, checks
from registry import Block, entry_of


def parametrize_checks(
    blocks: Iterable[Subject | type[Block]],
    *,
    expected_failures: Mapping[str, str] | None = None,
    only: Iterable[Check] | None = None,
    without: Iterable[Check] = (),
) -> Any:
    """A decorator that gives a test function each pair of ``subject`` and ``check``, with ids that read.

    ``@parametrize_checks([MyMixer, MyNorm])`` over ``def test_conforms(subject, check): check(subject)`` is a whole
    test file.

    Args:
        blocks: registered classes, each checked at every place where it works, or subjects with parameters.
        expected_failures: why a check does not hold, by its id: ``norm/my_norm: takes_nothing``, or by the check's part
            of it alone, for all blocks. Such a test must fail.
        only: the checks to take, of those that apply.
        without: the checks to leave out.

    Raises:
        ValueError: a failure is expected of a check that is not there.
    """
    import pytest  # here, so that checks can be called without it

    reasons, used = dict(expected_failures or {}), set[str]()
    params: list[Any] = []
    for subject, check in pairs(blocks, only, without):
        name = check.__name__.removeprefix("check_")
        keys = [key for key in (f"{subject.id}: {name}", name) if key in reasons]
        used.update(keys)
        marks = [pytest.mark.xfail(reason=reasons[keys[0]], strict=True)] if keys else []
        params.append(pytest.param(subject, check, id=f"{subject.id}: {name}", marks=marks))
    if unknown := reasons.keys() - used:
        raise ValueError(f"no check is called {sorted(unknown)[0]!r}, of which a failure is expected")
    return pytest.mark.parametrize(("subject", "check"), params)


def pairs(
    blocks: Iterable[Subject | type[Block]], only: Iterable[Check] | None = None, without: Iterable[Check] = ()
) -> list[tuple[Subject, Check]]:
    """Each block with each check that applies to it."""
    wanted, left_out = None if only is None else set(only), set(without)
    found: list[tuple[Subject, Check]] = []
    for block in blocks:
        for subject in [block] if isinstance(block, Subject) else subjects(block.slot, entry_of(block).name):
            applying = [check for check in checks(subject) if check not in left_out]
            found += [(subject, check) for check in applying if wanted is None or check in wanted]
    return found
