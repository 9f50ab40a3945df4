"""Figures of the tour, computed from the blocks, as SVG in the reader's light or dark color scheme."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

import torch
import trained
from torch import Tensor

from blocks.attention.softmax import MultiHeadAttention
from blocks.base import Context, Site
from blocks.init.keyed import initialise
from blocks.init.schemes import Xavier
from blocks.positions.sinusoidal import SinusoidalPositions

STYLE = """.paper { fill: #ffffff }
text { fill: #16202f; font: 13px sans-serif } .axis { stroke: #8a97ad } .seen { fill: #3f6fd1 }
.unseen { fill: #e3e8f1 } .first { fill: #c8553d } .second { fill: #3f6fd1 }
@media (prefers-color-scheme: dark) {
  .paper { fill: #14171c }
  text { fill: #e8edf5 } .unseen { fill: #2a3342 } .seen, .second { fill: #7fa5f5 } .first { fill: #f0876f }
}"""
WIDTHS = (4, 16, 64, 256, 1024)
CHINESE = {
    "Vectors of positions": "位置的向量",
    "channel": "通道",
    "position": "位置",
    "The largest weight of the softmax": "softmax 的最大权重",
    "undivided": "不除",
    "divided by the root of d": "除以根号 d",
    "Which tokens an output depends on": "输出取决于哪些词元",
    "encoder": "编码器",
    "decoder": "解码器",
    "decoder, window: 3": "解码器，window: 3",
    "What the heads attend to": "各个头看哪里",
    "head": "头",
}
Say = Callable[[str], str]
"""A label of a figure in the language of the page."""


def figure(name: str, language: str = "en") -> str:
    """The SVG of a figure with its labels in a language, ``en`` or ``zh``."""
    return FIGURES[name](CHINESE.__getitem__ if language == "zh" else str)


def positions(say: Say) -> str:
    """The sinusoidal vectors of 40 positions."""
    values, side = SinusoidalPositions(Site(dim=32, max_length=40)).encode(torch.arange(40)), 12
    cells = (
        f'<rect x="{70 + side * column}" y="{30 + side * row}" width="{side}" height="{side}" fill="{_color(value)}"/>'
        for row, line in enumerate(values.tolist())
        for column, value in enumerate(line)
    )
    rows = (_text(62, 41 + side * row, str(row), "end") for row in range(0, 40, 10))
    right, channel = 70 + 32 * side, say("channel")
    labels = [_text(70, 20, f"{channel} 0"), _text(right, 20, f"{channel} 31", "end"), _text(8, 20, say("position"))]
    return _svg(right + 10, 40 + 40 * side, say("Vectors of positions"), [*labels, *rows, *cells])


def saturation(say: Say) -> str:
    """The largest weight of a softmax over 16 scores by the width, with and without the scale."""
    parts: list[str] = []
    for index, width in enumerate(WIDTHS):
        left = 70 + 90 * index
        for kind, scale, shift in (("first", 1.0, 0), ("second", width**-0.5, 32)):
            value = largest_weight(width, scale)
            top = 210 - 170 * value
            parts.append(f'<rect class="{kind}" x="{left + shift}" y="{top:.1f}" width="28" height="{210 - top:.1f}"/>')
            parts.append(_text(left + shift + 14, top - 5, f"{value:.2f}", "middle"))
        parts.append(_text(left + 30, 230, f"d = {width}", "middle"))
    key = [
        '<rect class="first" x="70" y="4" width="12" height="12"/>' + _text(88, 15, say("undivided")),
        '<rect class="second" x="170" y="4" width="12" height="12"/>' + _text(188, 15, say("divided by the root of d")),
        '<line class="axis" x1="60" y1="210" x2="520" y2="210"/>',
    ]
    return _svg(530, 240, say("The largest weight of the softmax"), [*key, *parts])


def visibility(say: Say) -> str:
    """Which inputs change which outputs of three attention blocks."""
    tokens = ("the", "cat", "eats", "a", "fish", ".")
    kinds = {"encoder": (False, None), "decoder": (True, None), "decoder, window: 3": (True, 3)}
    side, parts = 24, list[str]()
    for index, (title, (causal, window)) in enumerate(kinds.items()):
        left = 50 + 200 * index
        parts.append(_text(left, 16, say(title)))
        for row, seen in enumerate(influence(len(tokens), causal, window).tolist()):
            parts.append(_text(left - 6, 48 + side * row, tokens[row], "end"))
            parts += (
                f'<rect class="{"seen" if one else "unseen"}" x="{left + side * column}" y="{30 + side * row}" '
                f'width="{side - 2}" height="{side - 2}"/>'
                for column, one in enumerate(seen)
            )
    return _svg(610, 190, say("Which tokens an output depends on"), parts)


def attended(say: Say) -> str:
    """What each head of a small trained model attends to."""
    words, side, parts = trained.SENTENCE.split(), 34, list[str]()
    found = trained.explained().value("decoder.layers.0.mixer", "weights")
    for head, rows in enumerate(found.tolist()):
        left, top = 60 + 290 * (head % 2), 70 + 290 * (head // 2)
        parts.append(_text(left, top - 52, f"{say('head')} {head}"))
        for place, word in enumerate(words):
            parts.append(_text(left - 6, top + side * place + 22, word, "end"))
            parts.append(_text(left + side * place + 17, top - 6, word, "start", turned=True))
        for row, line in enumerate(rows):
            for column, weight in enumerate(line[: row + 1]):
                place = f'x="{left + side * column}" y="{top + side * row}" width="{side - 2}" height="{side - 2}"'
                parts.append(f'<rect class="unseen" {place}/><rect class="seen" {place} fill-opacity="{weight:.3f}"/>')
    return _svg(590, 570, say("What the heads attend to"), parts)


FIGURES: Mapping[str, Callable[[Say], str]] = {
    "attended": attended,
    "positions": positions,
    "saturation": saturation,
    "visibility": visibility,
}


def largest_weight(width: int, scale: float) -> float:
    """The largest of 16 weights of the median query, of random queries and keys with variance 1."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(64, 16, width, generator=generator) for _ in "qk")
    return float((q @ k.transpose(-2, -1) * scale).softmax(-1).max(-1).values.median())


def influence(length: int, causal: bool, window: int | None) -> Tensor:
    """(T, T) bool: whether an input changes an output of attention."""
    block = MultiHeadAttention(Site(dim=16, causal=causal), heads=2, window=window)
    initialise(block, Xavier(), seed=0)
    x = torch.randn(1, length, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    context = Context.of(x)
    block.prepare(context)
    y = block(x, context)
    rows = (torch.autograd.grad(y[0, t].sum(), x, retain_graph=True)[0][0].abs().sum(-1) > 0 for t in range(length))
    return torch.stack(list(rows))


def _color(value: float) -> str:
    """Blue for 1, white for 0, red for -1."""
    pale = round(255 * (1 - abs(value)))
    return f"#{pale:02x}{pale + (110 * (255 - pale)) // 255:02x}ff" if value > 0 else f"#ff{pale:02x}{pale:02x}"


def _text(x: float, y: float, text: str, anchor: str = "start", *, turned: bool = False) -> str:
    turn = f' transform="rotate(-50 {x:g} {y:g})"' if turned else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{turn}>{escape(text)}</text>'


def _svg(width: int, height: int, title: str, parts: Sequence[str] | Iterator[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img"><title>{escape(title)}</title><style>{STYLE}</style>'
        f'<rect class="paper" width="{width}" height="{height}"/>{"".join(parts)}</svg>'
    )
