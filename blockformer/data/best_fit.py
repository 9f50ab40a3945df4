"""Best-fit-decreasing bin packing of pieces that are only counted by their length."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class RowKind:
    """Rows with pieces of the same lengths.

    Pieces are numbered from the longest to the shortest, those of the same length one after another. Of each part
    (size, each, first), row k has `each` pieces of `size` tokens, from number first + k each on.

    Attributes:
        rows: how many rows there are.
        parts: what is in each.
    """

    rows: int
    parts: tuple[tuple[int, int, int], ...] = ()

    def filled(self, rows: int, size: int, each: int, first: int) -> "RowKind":
        """The first `rows` of them, with further pieces."""
        return RowKind(rows, (*self.parts, (size, each, first)))

    def after(self, rows: int) -> "RowKind":
        """Those that come after the first `rows`."""
        parts = tuple((size, each, first + rows * each) for size, each, first in self.parts)
        return replace(self, rows=self.rows - rows, parts=parts)


def best_fit_decreasing(counts: Sequence[int]) -> list[RowKind]:
    """Pack pieces into rows: from the longest to the shortest, each into the fullest row that has room for it.

    Rows with pieces of the same lengths are kept as one, of which there are at most three for each length, so time and
    memory depend on the length of a row alone: O(L log(L)^2) steps for L tokens and any number of pieces. Ding et al.
    2024, "Fewer Truncations Improve Language Modeling", arXiv:2404.10830, pack documents so. There are at most 11/9 of
    the fewest rows that are possible, and 4 more (Johnson et al. 1974, doi:10.1137/0203025).

    Args:
        counts: (L + 1,) how many pieces have 0, 1, ..., L tokens; a row has L. Those without tokens are left out.
    """
    length, first, rows = len(counts) - 1, 0, _Rows()
    for size in range(length, 0, -1):
        left = int(counts[size])
        while left:
            if (found := rows.take(size)) is None:
                rows.put(RowKind(-(-left // (length // size))), length)
                continue
            kind, room = found
            each = room // size
            many = min(kind.rows, left // each)
            for number, pieces in ((many, each), (min(kind.rows - many, 1), min(left - many * each, each))):
                if number and pieces:
                    rows.put(kind.filled(number, size, pieces, first), room - pieces * size)
                    first, left, kind = first + number * pieces, left - number * pieces, kind.after(number)
            if kind.rows:
                rows.put(kind, room)
    return rows.all()


class _Rows:
    """Rows by the room that they have left."""

    def __init__(self) -> None:
        self._rooms: list[int] = []  # ascending
        self._kinds: dict[int, list[RowKind]] = {}

    def put(self, kind: RowKind, room: int) -> None:
        """Add rows that have this room."""
        if room not in self._kinds:
            insort(self._rooms, room)
        self._kinds.setdefault(room, []).append(kind)

    def take(self, size: int) -> tuple[RowKind, int] | None:
        """Remove some of the fullest rows that have room for so many tokens, and their room; None: there are none."""
        place = bisect_left(self._rooms, size)
        if place == len(self._rooms):
            return None
        room = self._rooms[place]
        kind = self._kinds[room].pop()
        if not self._kinds[room]:
            del self._kinds[room], self._rooms[place]
        return kind, room

    def all(self) -> list[RowKind]:
        """All rows, the fullest first."""
        return [kind for room in self._rooms for kind in self._kinds[room]]
