"""The conformance suite: what every block has to hold to, ready to be run on yours.

```python
from blockformer.conformance import parametrize_checks
from my_package import MyMixer

@parametrize_checks([MyMixer])
def test_conforms(subject, check):
    check(subject)
```

``parametrize_checks(registered("my_package"))`` takes every block of a package; ``run_checks`` does without pytest and
returns a report, and so does ``blockformer test-block`` in a shell. A check is a plain function of a
:class:`Subject` (a block, its parameters, and where it stands) that raises AssertionError;
:mod:`blockformer.conformance.table` says which apply to which slot. Importing this package needs no pytest.
"""

from blockformer.conformance.outcomes import Outcome, Report, run_checks
from blockformer.conformance.parametrize import pairs, parametrize_checks
from blockformer.conformance.subject import Place, Subject, registered, subjects
from blockformer.conformance.table import Check, checks

__all__ = [
    "Check",
    "Outcome",
    "Place",
    "Report",
    "Subject",
    "checks",
    "pairs",
    "parametrize_checks",
    "registered",
    "run_checks",
    "subjects",
]
