"""The checks as tests of pytest."""

from collections.abc import Iterable, Mapping
from typing import Any

from blockformer.conformance.expecting import Expectations
from blockformer.conformance.subject import Subject, subjects
from blockformer.conformance.table import ONCE, Check, checks, name_of
from blockformer.conformance.variants import variants
from registry import Block, entry_of


def parametrize_checks(
    blocks: Iterable[Subject | type[Block]],
    *,
    expected_failures: Mapping[str, str] | None = None,
    only: Iterable[Check] | None = None,
    without: Iterable[Check] = (),
    options: bool = False,
) -> Any:
    """A decorator that gives a test function each pair of ``subject`` and ``check``, with ids that read.

    ``@parametrize_checks([MyMixer, MyNorm])`` over ``def test_conforms(subject, check): check(subject)`` is a whole
    test file.

    Args:
        blocks: registered classes, each checked at every place where it works, or subjects with parameters.
        expected_failures: why a check does not hold, by its id: ``norm/my_norm: takes_nothing``, or by the check's part
            of it alone, for all blocks. Such a test must fail. A class can say the same by ``expected_failures``.
        only: the checks to take, of those that apply.
        without: the checks to leave out.
        options: also check each block with each of its parameters at another value.

    Raises:
        ValueError: a failure is expected of a check that is not there.
    """
    import pytest  # here, so that checks can be called without it

    chosen = pairs(blocks, only, without, options)
    expectations, params = Expectations(chosen, expected_failures), list[Any]()
    for subject, check in chosen:
        reason = expectations.reason(subject, check)
        marks = [] if reason is None else [pytest.mark.xfail(reason=reason, strict=True)]
        params.append(pytest.param(subject, check, id=f"{subject.id}: {name_of(check)}", marks=marks))
    return pytest.mark.parametrize(("subject", "check"), params)


def pairs(
    blocks: Iterable[Subject | type[Block]],
    only: Iterable[Check] | None = None,
    without: Iterable[Check] = (),
    options: bool = False,
) -> list[tuple[Subject, Check]]:
    """Each block with each check that applies to it; arguments as of :func:`parametrize_checks`."""
    wanted, left_out = None if only is None else set(only), set(without)
    found: list[tuple[Subject, Check]] = []
    for block in blocks:
        for subject in [block] if isinstance(block, Subject) else subjects(block.slot.name, entry_of(block).name):
            found += [(subject, check) for check in checks(subject)]
            for variant in variants(subject) if options else ():
                found += [(variant, check) for check in checks(variant) if check not in ONCE]
    return [(s, c) for s, c in found if c not in left_out and (wanted is None or c in wanted)]
