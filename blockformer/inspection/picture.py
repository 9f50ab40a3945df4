"""Pictures in cells of text: boxes and lines that can be put below, beside and into each other."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from textwrap import wrap

Point = tuple[int, int]


@dataclass(frozen=True)
class Mark:
    """One thing: a ``box`` between two corners, a ``line`` through points, ``text``, a ``sign`` or an ``arrow``."""

    kind: str
    points: tuple[Point, ...]
    text: str = ""
    tag: str = ""

    def moved(self, dx: int, dy: int) -> "Mark":
        """The same, elsewhere."""
        return replace(self, points=tuple((x + dx, y + dy) for x, y in self.points))


@dataclass(frozen=True)
class Picture:
    """Marks in a rectangle; ``anchor`` is the column in which the stream comes in above and goes out below."""

    width: int
    height: int
    anchor: int
    marks: tuple[Mark, ...] = field(default=())

    def moved(self, dx: int, dy: int) -> tuple[Mark, ...]:
        """All its marks, elsewhere."""
        return tuple(mark.moved(dx, dy) for mark in self.marks)


def box(lines: Sequence[str], width: int, tag: str = "") -> Picture:
    """Text in a box; what is too long goes on in the next line."""
    said = [part for line in lines for part in wrap(line, width - 4, break_long_words=True)]
    marks = [Mark("box", ((0, 0), (width - 1, len(said) + 1)), tag=tag)]
    marks += [Mark("text", ((2, row + 1),), text, "title" if row == 0 else "") for row, text in enumerate(said)]
    return Picture(width, len(said) + 2, width // 2, tuple(marks))


def word(text: str) -> Picture:
    """Text without a box."""
    return Picture(len(text), 1, len(text) // 2, (Mark("text", ((0, 0),), text, "port"),))


def below(pictures: Iterable[Picture]) -> Picture:
    """One below the other, the anchors joined by a line."""
    shown = list(pictures)
    anchor = max((picture.anchor for picture in shown), default=0)
    marks: list[Mark] = []
    height = right = 0
    for picture in shown:
        if height:
            marks.append(Mark("line", ((anchor, height - 1), (anchor, height + 1))))
            height += 1
        marks += picture.moved(anchor - picture.anchor, height)
        height += picture.height
        right = max(right, anchor - picture.anchor + picture.width)
    return Picture(max(right, anchor + 1), max(height, 1), anchor, tuple(marks))


def joined(ways: Sequence[Picture], operation: str, label: str, *, passes: bool) -> Picture:
    """Ways side by side from one point to one sign, and the stream beside them if it ``passes`` by."""
    wide = sum(way.width for way in ways) + 2 * (len(ways) - 1)
    tall = max((way.height for way in ways), default=1)
    anchor = ways[0].anchor if len(ways) == 1 else wide // 2
    end, marks, left = tall + 3, [Mark("line", ((anchor, 0), (anchor, 1)))], 0
    for way in ways:
        column = left + way.anchor
        marks += [Mark("line", ((anchor, 1), (column, 1), (column, 2))), *way.moved(left, 2)]
        marks += [Mark("line", ((column, way.height + 1), (column, end), (anchor, end)))]
        left += way.width + 2
    width = wide + 4 if passes else wide
    if passes:
        marks.append(Mark("line", ((anchor, 1), (width - 1, 1), (width - 1, end), (anchor, end)), tag="stream"))
    marks.append(Mark("sign", ((anchor, end),), operation))
    if label:
        marks.append(Mark("text", ((anchor + 3, end + 1),), label, "label"))
    marks.append(Mark("line", ((anchor, end), (anchor, end + 1 + bool(label)))))
    return Picture(max(width, anchor + 4 + len(label)), end + 1 + bool(label), anchor, tuple(marks))


def framed(title: Sequence[str], inner: Picture, width: int) -> Picture:
    """A picture under a title, in a frame."""
    head = box(title, width)
    shift = max(2, head.anchor - inner.anchor)
    inside = max(width, shift + inner.width + 2)
    head = box(title, inside)
    column = shift + inner.anchor
    marks = [*head.marks, *inner.moved(shift, head.height)]
    end = head.height + inner.height
    marks.append(Mark("box", ((0, 0), (inside - 1, end)), tag="frame"))
    ends = (head.height - 1, head.height), (end - 1, end)
    marks += [Mark("line", ((column, top), (column, bottom))) for top, bottom in ends]
    return Picture(inside, end + 1, column, tuple(marks))
