"""The scales of a model at step 0 as lines of text."""

from collections.abc import Iterator

from blockformer.inspection.activation_statistics import Scale, Scales
from blockformer.inspection.findings import findings

HEADER = ("layer", "in", "out", "change", "largest", "score", "entropy", "gradient")
NOTE = """\
in, out: root mean square of the stream before and after a layer. change, and what each sublayer gives: as shares of in.
score: largest attention score; entropy: 1 is to look everywhere alike. gradient: its norm, of the layer."""


def text(told: Scales) -> Iterator[str]:
    """A line for each layer, then what is unusual."""
    names = list(dict.fromkeys(name for scale in told.layers for name in scale.sublayers))
    rows = [(*HEADER[:4], *names, *HEADER[4:]), *(_row(scale, names) for scale in told.layers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for first, *rest in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
        yield f"{first:<{widths[0]}}  {'  '.join(cells)}".rstrip()
    yield ""
    for name, gradient in told.gradients.items():
        yield f"gradient outside layers, {name}: {gradient:.3g}"
    yield f"logits: standard deviation {told.logits:.3g}"
    yield f"loss: {told.loss:.3f}; of a uniform guess: {told.uniform:.3f}"
    yield NOTE
    yield ""
    unusual = findings(told)
    yield from (f"unusual: {line}" for line in unusual)
    if not unusual:
        yield "nothing unusual"


def _row(scale: Scale, names: list[str]) -> tuple[str, ...]:
    label = f"{scale.stack} {scale.layer}" + (f" ({scale.name})" if scale.name else "")
    before = (scale.stream, scale.out, scale.change)
    numbers = (*before, *(scale.sublayers.get(name) for name in names), scale.largest, scale.score, scale.entropy)
    return label, *("" if number is None else f"{number:.3g}" for number in (*numbers, scale.gradient))
