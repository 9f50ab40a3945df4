"""The conformance suite: the checks that every block has to pass, for the blocks of this project and for yours.

```python
from blockformer.conformance import parametrize_checks
from my_package import MyMixer

@parametrize_checks([MyMixer])
def test_conforms(case, check):
    check(case)
```

``parametrize_checks(registered("my_package"))`` takes every block of a package. ``run_checks`` and the command
``blockformer test-block`` run the same checks without pytest and return a report. A check is a function of a
:class:`BlockCase` (a block, its parameters and its place); it raises AssertionError if the block fails, and
:class:`NotApplicable`, which pytest reports as skipped, if the block has nothing for it to test.
:mod:`blockformer.conformance.table` lists the checks of each slot. Importing this package does not import pytest.
"""

from blockformer.conformance.block_case import BlockCase, NotApplicable, Place, block_cases, registered
from blockformer.conformance.runner import ConformanceReport, Outcome, pairs, parametrize_checks, run_checks
from blockformer.conformance.table import Check, checks_for

__all__ = [
    "BlockCase",
    "Check",
    "ConformanceReport",
    "NotApplicable",
    "Outcome",
    "Place",
    "block_cases",
    "checks_for",
    "pairs",
    "parametrize_checks",
    "registered",
    "run_checks",
]
