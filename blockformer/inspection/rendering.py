"""Drawings made of boxes and lines in a grid of character cells, rendered as text or SVG."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from textwrap import wrap
from xml.sax.saxutils import escape

UP, DOWN, LEFT, RIGHT = 1, 2, 4, 8
STROKES = " ╵╷│╴┘┐┤╶└┌├─┴┬┼"
COLUMN, ROW = 8, 18
"""Size of a cell in SVG units."""
STYLE = """\
  .paper { fill: #ffffff } .box { fill: #f4f6fa; stroke: #4a5a78 } .frame { fill: none; stroke: #8a97ad }
  .line { fill: none; stroke: #4a5a78 } .stream { stroke-width: 2.5 } .memory { stroke-dasharray: 5 3 }
  .sign { fill: #ffffff; stroke: #4a5a78 } text { fill: #16202f; font: 13px ui-monospace, monospace }
  .port { stroke: #ffffff; stroke-width: 6; paint-order: stroke }
  .title { font-weight: bold } .label { font-style: italic }
  @media (prefers-color-scheme: dark) {
    .paper, .sign { fill: #12161d } .box { fill: #1e2531; stroke: #9fb0cc } .frame { stroke: #66738a }
    .line, .sign { stroke: #9fb0cc } .port { stroke: #12161d } text { fill: #e8edf5 }
  }"""

Point = tuple[int, int]


@dataclass(frozen=True)
class Mark:
    """A ``box`` between two corners, a ``line`` through points, ``text``, an operator ``sign`` or an ``arrow``."""

    kind: str
    points: tuple[Point, ...]
    text: str = ""
    tag: str = ""

    def moved(self, dx: int, dy: int) -> "Mark":
        """A copy, moved by (dx, dy) cells."""
        return replace(self, points=tuple((x + dx, y + dy) for x, y in self.points))


@dataclass(frozen=True)
class Drawing:
    """Marks in a rectangle of cells; the line through the drawing enters and leaves at column ``anchor``."""

    width: int
    height: int
    anchor: int
    marks: tuple[Mark, ...] = field(default=())

    def moved(self, dx: int, dy: int) -> tuple[Mark, ...]:
        """Copies of all marks, moved by (dx, dy) cells."""
        return tuple(mark.moved(dx, dy) for mark in self.marks)


def box(lines: Sequence[str], width: int, tag: str = "") -> Drawing:
    """Lines of text in a box; long lines are wrapped."""
    wrapped = [part for line in lines for part in wrap(line, width - 4, break_long_words=True)]
    marks = [Mark("box", ((0, 0), (width - 1, len(wrapped) + 1)), tag=tag)]
    marks += [Mark("text", ((2, row + 1),), text, "title" if row == 0 else "") for row, text in enumerate(wrapped)]
    return Drawing(width, len(wrapped) + 2, width // 2, tuple(marks))


def label(text: str) -> Drawing:
    """Text without a box."""
    return Drawing(len(text), 1, len(text) // 2, (Mark("text", ((0, 0),), text, "port"),))


def stacked(drawings: Iterable[Drawing]) -> Drawing:
    """Drawings from top to bottom, their anchors joined by lines."""
    shown = list(drawings)
    anchor = max((drawing.anchor for drawing in shown), default=0)
    marks: list[Mark] = []
    height = right = 0
    for drawing in shown:
        if height:
            marks.append(Mark("line", ((anchor, height - 1), (anchor, height + 1))))
            height += 1
        marks += drawing.moved(anchor - drawing.anchor, height)
        height += drawing.height
        right = max(right, anchor - drawing.anchor + drawing.width)
    return Drawing(max(right, anchor + 1), max(height, 1), anchor, tuple(marks))


def merged(branches: Sequence[Drawing], operation: str, name: str, *, skip: bool) -> Drawing:
    """Branches side by side from one point to one operator sign, and a ``skip`` connection beside them."""
    wide = sum(branch.width for branch in branches) + 2 * (len(branches) - 1)
    tall = max((branch.height for branch in branches), default=1)
    anchor = branches[0].anchor if len(branches) == 1 else wide // 2
    end, marks, left = tall + 3, [Mark("line", ((anchor, 0), (anchor, 1)))], 0
    for branch in branches:
        column = left + branch.anchor
        marks += [Mark("line", ((anchor, 1), (column, 1), (column, 2))), *branch.moved(left, 2)]
        marks += [Mark("line", ((column, branch.height + 1), (column, end), (anchor, end)))]
        left += branch.width + 2
    width = wide + 4 if skip else wide
    if skip:
        marks.append(Mark("line", ((anchor, 1), (width - 1, 1), (width - 1, end), (anchor, end)), tag="stream"))
    marks.append(Mark("sign", ((anchor, end),), operation))
    if name:
        marks.append(Mark("text", ((anchor + 3, end + 1),), name, "label"))
    marks.append(Mark("line", ((anchor, end), (anchor, end + 1 + bool(name)))))
    return Drawing(max(width, anchor + 4 + len(name)), end + 1 + bool(name), anchor, tuple(marks))


def framed(title: Sequence[str], inner: Drawing, width: int) -> Drawing:
    """A drawing in a frame, below a title."""
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
    return Drawing(inside, end + 1, column, tuple(marks))


def as_text(drawing: Drawing) -> str:
    """The drawing in box-drawing characters."""
    strokes: dict[Point, int] = {}
    letters: dict[Point, str] = {}
    for mark in drawing.marks:
        if mark.kind in ("box", "line"):
            _stroke(strokes, _corners(mark))
        else:
            (x, y), said = mark.points[0], {"sign": f"({mark.text})", "arrow": ">"}.get(mark.kind, mark.text)
            x -= mark.kind == "sign"
            letters |= {(x + index, y): letter for index, letter in enumerate(said)}
    width, height = _size(drawing)
    rows = (
        "".join(letters.get((x, y), STROKES[strokes.get((x, y), 0)]) for x in range(width)).rstrip()
        for y in range(height)
    )
    return "\n".join(rows).rstrip() + "\n"


def as_svg(drawing: Drawing, title: str, description: str) -> str:
    """A self-contained SVG that follows the reader's light or dark color scheme."""
    columns, rows = _size(drawing)
    width, height = (columns + 2) * COLUMN, (rows + 1) * ROW
    order = sorted(drawing.marks, key=lambda mark: ("box", "line", "arrow", "sign", "text").index(mark.kind))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-labelledby="title desc">\n<title id="title">{escape(title)}</title>\n'
        f'<desc id="desc">{escape(description)}</desc>\n<style>\n{STYLE}\n</style>\n'
        f'<rect class="paper" width="{width}" height="{height}"/>\n'
    )
    return head + "\n".join(_element(mark) for mark in order) + "\n</svg>\n"


def _element(mark: Mark) -> str:
    places = [_place(point) for point in mark.points]
    (x, y), tag = places[0], f" {mark.tag}" if mark.tag else ""
    if mark.kind == "box":
        (right, bottom) = places[1]
        kind = "frame" if mark.tag == "frame" else "box"
        return f'<rect class="{kind}" x="{x}" y="{y}" width="{right - x}" height="{bottom - y}" rx="4"/>'
    if mark.kind == "line":
        return f'<polyline class="line{tag}" points="{" ".join(f"{a},{b}" for a, b in places)}"/>'
    if mark.kind == "arrow":
        return f'<polyline class="line" points="{x},{y - 4} {x + COLUMN},{y} {x},{y + 4}"/>'
    if mark.kind == "sign":
        sign = f'<text x="{x}" y="{y + 5}" text-anchor="middle">{escape(mark.text)}</text>'
        return f'<circle class="sign" cx="{x}" cy="{y}" r="9"/>{sign}'
    return f'<text class="{mark.tag or "detail"}" x="{x}" y="{y + 5}">{escape(mark.text)}</text>'


def _place(point: Point) -> Point:
    return (point[0] + 1) * COLUMN, (point[1] + 1) * ROW


def _size(drawing: Drawing) -> Point:
    ends = [(x + len(mark.text), y) for mark in drawing.marks for x, y in mark.points]
    return max(x for x, _ in ends) + 1, max(y for _, y in ends) + 1


def _corners(mark: Mark) -> list[Point]:
    if mark.kind == "line":
        return list(mark.points)
    (left, top), (right, bottom) = mark.points
    return [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]


def _stroke(strokes: dict[Point, int], points: list[Point]) -> None:
    """Add a line to the cells that it crosses."""
    for (x, y), (to_x, to_y) in pairwise(points):
        dx, dy = (to_x > x) - (to_x < x), (to_y > y) - (to_y < y)
        out, back = {(1, 0): (RIGHT, LEFT), (-1, 0): (LEFT, RIGHT), (0, 1): (DOWN, UP), (0, -1): (UP, DOWN)}.get(
            (dx, dy), (0, 0)
        )
        while (x, y) != (to_x, to_y):
            strokes[x, y] = strokes.get((x, y), 0) | out
            x, y = x + dx, y + dy
            strokes[x, y] = strokes.get((x, y), 0) | back
