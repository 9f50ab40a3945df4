"""Which regular expressions of a stranger's tokenizer are used: those that no text can make run for ever.

The library matches by trying every way (backtracking). A repetition of a repetition, such as `(a+)+`, has exponentially
many ways, as has one of alternatives or of something optional, such as `(a|a)+` and `(ab?)+`, and a reference to an
earlier group cannot be bounded at all. What is left takes polynomial time, and the library gives a match up after ten
million tries.
"""

import re
from collections.abc import Callable
from typing import ClassVar

LONGEST = 5_000  # characters
MOST_REPEATS = 1_000
AT_ONCE = 4  # repetitions in a row; published tokenizers have two
MOST_WAYS = 1_000  # to match what is optional or has alternatives, in a row; published tokenizers have tens
_LEXEME = re.compile(
    r"(?P<flags>\(\?[im-]+\))|(?P<opening>\((?:\?(?:[im-]*:|=|!|<=|<!|>))?(?!\?))|(?P<unknown>\()|(?P<closing>\))"
    r"|(?P<bar>\|)|(?P<optional>\?[?+]?)|(?P<repeat>[*+][?+]?|\{(?:\d+,?\d*|,\d+)\}\??)|(?P<reference>\\[1-9gkK])"
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
    """The open groups, and what a quantifier would repeat: the last character, class or group."""

    def __init__(self) -> None:
        self._groups = [_Group()]
        self._last = (0, 1)  # repetitions in it, and ways to match it

    def atom(self, text: str) -> str | None:
        self._last = (0, 1)

    def flags(self, text: str) -> str | None:
        """Nothing is matched."""

    def opening(self, text: str) -> str | None:
        self._groups.append(_Group())

    def unknown(self, text: str) -> str | None:
        return "has a kind of group that is not allowed"

    def closing(self, text: str) -> str | None:
        if len(self._groups) == 1:
            return "closes a group that is not open"
        self._last = self._groups.pop().whole()
        return self._groups[-1].add(*self._last)

    def bar(self, text: str) -> str | None:
        self._groups[-1].begin_alternative()
        self._last = (0, 1)

    def optional(self, text: str) -> str | None:
        repeats, ways = self._last
        self._last = (repeats, ways + 1)
        return self._groups[-1].add(0, ways + 1, instead_of=ways)

    def repeat(self, text: str) -> str | None:
        if any(int(number) > MOST_REPEATS for number in re.findall(r"\d+", text)):
            return f"repeats more than {MOST_REPEATS:,} times"
        repeats, ways = self._last
        if repeats:
            return "repeats a repetition"
        if ways > 1:
            return "repeats what can be matched in several ways"
        exact = "," not in text and text[0] == "{"  # `(\d{3})+` has one way to match
        if exact and text.endswith("?"):  # not lazy: in this syntax `a{2}?` is `(?:a{2})?`
            self._last = (0, 2)
            return self._groups[-1].add(0, 2)
        self._last = (0 if exact else 1, 1)
        return self._groups[-1].add(*self._last)

    def reference(self, text: str) -> str | None:
        return "refers to an earlier group"

    READ: ClassVar[dict[str, Callable[["_Scan", str], str | None]]] = {
        "atom": atom,
        "flags": flags,
        "opening": opening,
        "unknown": unknown,
        "closing": closing,
        "bar": bar,
        "optional": optional,
        "repeat": repeat,
        "reference": reference,
    }


class _Group:
    """Repetitions in a row, and ways to match beside them: of this alternative, and of all earlier ones."""

    def __init__(self) -> None:
        self._repeats, self._ways = 0, 1
        self._most_repeats, self._earlier_ways = 0, 0

    def add(self, repeats: int, ways: int, instead_of: int = 1) -> str | None:
        """Add a part of the alternative; `instead_of` is the number of ways that it had so far."""
        self._repeats, self._ways = self._repeats + repeats, self._ways // instead_of * ways
        if self._repeats > AT_ONCE:
            return f"has more than {AT_ONCE} repetitions in a row"
        return f"has more than {MOST_WAYS:,} ways to match in a row" if self._ways > MOST_WAYS else None

    def begin_alternative(self) -> None:
        self._most_repeats, self._earlier_ways = self.whole()
        self._repeats, self._ways = 0, 1

    def whole(self) -> tuple[int, int]:
        """Of all alternatives: the most repetitions in a row, and the ways to match together."""
        return max(self._repeats, self._most_repeats), self._ways + self._earlier_ways


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
