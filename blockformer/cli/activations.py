"""Activation statistics as lines of text."""

from collections.abc import Iterator

from blockformer.inspection.activation_statistics import ActivationStatistics, LayerStatistics
from blockformer.inspection.findings import findings

HEADER = ("layer", "in", "out", "change", "largest", "score", "entropy", "gradient")
NOTE = """\
in, out: root mean square of a layer's input and output. change, and the output of each sublayer: as shares of in.
score: largest attention score; entropy: 1 if all tokens get the same weight. gradient: its norm over the layer."""


def text(statistics: ActivationStatistics) -> Iterator[str]:
    """A line for each layer, then what is unusual."""
    names = list(dict.fromkeys(name for layer in statistics.layers for name in layer.sublayers))
    rows = [(*HEADER[:4], *names, *HEADER[4:]), *(_row(layer, names) for layer in statistics.layers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for first, *rest in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
        yield f"{first:<{widths[0]}}  {'  '.join(cells)}".rstrip()
    yield ""
    for name, gradient in statistics.gradients.items():
        yield f"gradient outside layers, {name}: {gradient:.3g}"
    yield f"logits: standard deviation {statistics.logits:.3g}"
    yield f"loss: {statistics.loss:.3f}; of a uniform prediction: {statistics.uniform:.3f}"
    yield NOTE
    yield ""
    unusual = findings(statistics)
    yield from (f"unusual: {line}" for line in unusual)
    if not unusual:
        yield "nothing unusual"


def _row(layer: LayerStatistics, names: list[str]) -> tuple[str, ...]:
    label = f"{layer.stack} {layer.layer}" + (f" ({layer.name})" if layer.name else "")
    before = (layer.input_rms, layer.output_rms, layer.change)
    numbers = (*before, *(layer.sublayers.get(name) for name in names), layer.largest, layer.score, layer.entropy)
    return label, *("" if number is None else f"{number:.3g}" for number in (*numbers, layer.gradient))
