"""Which regular expressions of a stranger's tokenizer are used: those that no text can make run for ever.

The library matches by trying every way (backtracking). A repetition of a repetition, such as `(a+)+`, has exponentially
many ways, and a reference to an earlier group cannot be bounded at all. What is left takes polynomial time, and the
library gives a match up after ten million tries.
"""

import re
from collections.abc import Callable
from typing import ClassVar

LONGEST = 5_000  # characters
MOST_REPEATS = 1_000
AT_ONCE = 4  # repetitions in a row; published tokenizers have two
_LEXEME = re.compile(
    r"(?P<flags>\(\?[imx-]+\))|(?P<opening>\((?:\?(?:[imx-]*:|=|!|<=|<!|>))?(?!\?))|(?P<unknown>\()|(?P<closing>\))"
    r"|(?P<bar>\|)|(?P<optional>\?[?+]?)|(?P<repeat>(?:[*+]|\{\d+,?\d*\}|\{,\d+\})[?+]?)|(?P<reference>\\[1-9gkK])"
    r"|(?P<atom>\\[pPxo]\{[^}]*\}|\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{1,2}|\\.|[^\\])",
    re.DOTALL,
)


def pattern_problem(pattern: str) -> str | None:
    """Why a regular expression is not used; None: it is."""
    if len(pattern) > LONGEST:
        return f"has {len(pattern):,} characters; at most {LONGEST:,} are allowed"
    scan, place = _Scan(), 0
    while place < len(pattern):
        if pattern[place] == "[":
            place = _end_of_class(pattern, place)
            scan.atom("")
            continue
        if (found := _LEXEME.match(pattern, place)) is None:
            return "ends in the middle of a character"
        if problem := _Scan.READ[found.lastgroup or ""](scan, found[0]):
            return problem
        place = found.end()
    return None


class _Scan:
    """The repetitions in a row of each open group: of this alternative, and the most of its earlier ones."""

    def __init__(self) -> None:
        self._groups = [[0, 0]]
        self._inside = 0  # repetitions of what a quantifier would repeat

    def atom(self, text: str) -> str | None:
        self._inside = 0

    def flags(self, text: str) -> str | None:
        """Nothing is matched."""

    def opening(self, text: str) -> str | None:
        self._groups.append([0, 0])

    def unknown(self, text: str) -> str | None:
        return "has a kind of group that is not allowed"

    def closing(self, text: str) -> str | None:
        if len(self._groups) == 1:
            return "closes a group that is not open"
        self._inside = max(self._groups.pop())
        return self._add(self._inside)

    def bar(self, text: str) -> str | None:
        here, most = self._groups[-1]
        self._groups[-1], self._inside = [0, max(here, most)], 0

    def repeat(self, text: str) -> str | None:
        if any(int(number) > MOST_REPEATS for number in re.findall(r"\d+", text)):
            return f"repeats more than {MOST_REPEATS:,} times"
        exact = "," not in text and text[0] == "{"  # `(\d{3})+` has one way to match
        return "repeats a repetition" if self._inside else self._add(0 if exact else 1)

    def reference(self, text: str) -> str | None:
        return "refers to an earlier group"

    def _add(self, count: int) -> str | None:
        self._groups[-1][0] += count
        return f"has more than {AT_ONCE} repetitions in a row" if self._groups[-1][0] > AT_ONCE else None

    READ: ClassVar[dict[str, Callable[["_Scan", str], str | None]]] = {
        "atom": atom,
        "flags": flags,
        "opening": opening,
        "unknown": unknown,
        "closing": closing,
        "bar": bar,
        "optional": flags,
        "repeat": repeat,
        "reference": reference,
    }


def _end_of_class(pattern: str, place: int) -> int:
    """The place after a class of characters, which may hold classes."""
    depth = 0
    while place < len(pattern):
        one = pattern[place]
        if one == "\\":
            place += 1
        elif one == "[":
            depth += 1
            place += pattern[place + 1 : place + 2] == "^"
            place += pattern[place + 1 : place + 2] == "]"
        elif one == "]":
            depth -= 1
            if not depth:
                return place + 1
        place += 1
    return place
