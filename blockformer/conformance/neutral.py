"""Values that say nothing: an option at one of them computes what leaving it out computes."""

from collections.abc import Iterator
from typing import Any

from blockformer.conformance.comparing import CLOSE, assert_same
from blockformer.conformance.example import example
from blockformer.conformance.running import run
from blockformer.conformance.subject import DIM, MAX_LENGTH, Path, Subject
from blockformer.conformance.variants import allowed

# Key -> value. "heads" stands for what the recipe says of heads beside the key.
NEUTRAL: dict[str, Any] = {
    "window": MAX_LENGTH,
    "kv_heads": "heads",
    "value_heads": "heads",
    "clip": 1e9,
    "softcap": 1e9,
    "dropout": 0.0,
    "rate": 0.0,
    "width": DIM,
    "distinct": "depth",
    "top_groups": "groups",
    "fraction": 1.0,
    "by": 1.0,
}


def check_neutral_values_change_nothing(subject: Subject) -> None:
    """As many key heads as heads, a window over all, no dropout ...: with the same weights, the same comes out."""
    block, given = subject.build(), example(subject)
    expected, neutral, together = run(block, given), list(_neutral(subject)), subject
    for path, value in neutral:
        together = together.put(path, value)
    candidates = [(together, "all values that say nothing, together")]
    if not allowed(together):
        candidates = [(subject.put(path, value), f"{'.'.join(map(str, path))}={value}") for path, value in neutral]
    for changed, what in candidates:
        if allowed(changed):
            other = changed.build()
            other.load_state_dict(block.state_dict(), strict=True)
            assert_same(run(other, given), expected, what, CLOSE)


def _neutral(subject: Subject) -> Iterator[tuple[Path, Any]]:
    """Each place in the recipe that can be given a value that says nothing, and is not said already."""
    for key, value in NEUTRAL.items():
        for path in subject.keys(key):
            beside = subject.at(path[:-1])
            said = beside.get(value) if isinstance(value, str) else value
            if said is not None and beside[key] in (None, said):
                yield path, said
