"""Paint a picture as text or as SVG."""

from itertools import pairwise
from xml.sax.saxutils import escape

from blockformer.inspection.picture import Mark, Picture, Point

UP, DOWN, LEFT, RIGHT = 1, 2, 4, 8
STROKES = " ╵╷│╴┘┐┤╶└┌├─┴┬┼"
COLUMN, ROW = 8, 18
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


def text(picture: Picture) -> str:
    """Lines of box-drawing characters."""
    strokes: dict[Point, int] = {}
    letters: dict[Point, str] = {}
    for mark in picture.marks:
        if mark.kind in ("box", "line"):
            _stroke(strokes, _corners(mark))
        else:
            (x, y), said = mark.points[0], {"sign": f"({mark.text})", "arrow": ">"}.get(mark.kind, mark.text)
            x -= mark.kind == "sign"
            letters |= {(x + index, y): letter for index, letter in enumerate(said)}
    width, height = _size(picture)
    rows = (
        "".join(letters.get((x, y), STROKES[strokes.get((x, y), 0)]) for x in range(width)).rstrip()
        for y in range(height)
    )
    return "\n".join(rows).rstrip() + "\n"


def svg(picture: Picture, title: str, description: str) -> str:
    """A drawing that needs nothing from elsewhere and follows the reader's light or dark scheme."""
    columns, rows = _size(picture)
    width, height = (columns + 2) * COLUMN, (rows + 1) * ROW
    order = sorted(picture.marks, key=lambda mark: ("box", "line", "arrow", "sign", "text").index(mark.kind))
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


def _size(picture: Picture) -> Point:
    ends = [(x + len(mark.text), y) for mark in picture.marks for x, y in mark.points]
    return max(x for x, _ in ends) + 1, max(y for _, y in ends) + 1


def _corners(mark: Mark) -> list[Point]:
    if mark.kind == "line":
        return list(mark.points)
    (left, top), (right, bottom) = mark.points
    return [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]


def _stroke(strokes: dict[Point, int], points: list[Point]) -> None:
    """Add a line to the cells that it passes."""
    for (x, y), (to_x, to_y) in pairwise(points):
        dx, dy = (to_x > x) - (to_x < x), (to_y > y) - (to_y < y)
        out, back = {(1, 0): (RIGHT, LEFT), (-1, 0): (LEFT, RIGHT), (0, 1): (DOWN, UP), (0, -1): (UP, DOWN)}.get(
            (dx, dy), (0, 0)
        )
        while (x, y) != (to_x, to_y):
            strokes[x, y] = strokes.get((x, y), 0) | out
            x, y = x + dx, y + dy
            strokes[x, y] = strokes.get((x, y), 0) | back
