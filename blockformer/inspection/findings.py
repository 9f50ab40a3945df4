"""Unusual values in the activation statistics of a model, as sentences."""

import math
from collections.abc import Iterator
from itertools import groupby
from statistics import median

from blockformer.inspection.activation_statistics import ActivationStatistics, LayerStatistics
from registry.text import ranges

GROWTH = 10.0
"""Growth over the second half of a stack; sums of independent sublayers grow with the root of depth: by less than 2."""
SHRINKAGE = 0.03
EXCESS_LOSS = 1.0
"""Nats above a uniform prediction; logits with a standard deviation of s cost about s^2 / 2."""
UNEVEN = 100.0
LARGE_SCORE = 50.0
"""Scores this large saturate the softmax."""
ZERO = 1e-6


def findings(statistics: ActivationStatistics) -> list[str]:
    """One sentence for each unusual value; none for a model that is ready to be trained."""
    lines = list(_loss(statistics))
    for stack, layers in groupby(statistics.layers, lambda layer: layer.stack):
        lines += _stack(stack, list(layers))
    gradients = statistics.gradients.items()
    lines += [f"{name}: the gradient is {size}" for name, size in gradients if not math.isfinite(size)]
    return lines


def _loss(statistics: ActivationStatistics) -> Iterator[str]:
    loss, uniform = statistics.loss, statistics.uniform
    if not math.isfinite(loss):
        yield f"the loss is {loss}"
    elif loss > uniform + EXCESS_LOSS:
        yield (
            f"the loss is {loss:.2f}, far above {uniform:.2f} of a uniform prediction: the logits (standard deviation "
            f"{statistics.logits:.2g}) are too large; use a smaller init or a scale in the head"
        )


def _stack(stack: str, layers: list[LayerStatistics]) -> Iterator[str]:
    if broken := [one for one in layers if not one.finite]:
        first = broken[0]
        after = "" if first.layer == 0 else f", whose input has a root mean square of {first.input_rms:.2g}"
        yield f"{stack}: the activations explode: they are not finite from layer {first.layer} on{after}"
        return
    if wrong := [one.layer for one in layers if not math.isfinite(one.gradient)]:
        yield f"{stack}, layers {ranges(wrong)}: the gradient is not finite"
        return
    middle, last = layers[len(layers) // 2], layers[-1]
    if middle.input_rms and last.output_rms / middle.input_rms > GROWTH:
        yield (
            f"{stack}: the activations explode: their root mean square is {middle.input_rms:.2g} before layer "
            f"{middle.layer} and {last.output_rms:.2g} at the end; use a norm in each layer or a smaller init"
        )
    if layers[0].input_rms and last.output_rms / layers[0].input_rms < SHRINKAGE:
        yield f"{stack}: the activations vanish, from {layers[0].input_rms:.2g} to {last.output_rms:.2g}"
    yield from _layers(stack, layers)
    yield from _gradients(stack, layers)


def _layers(stack: str, layers: list[LayerStatistics]) -> Iterator[str]:
    if identical := [one.layer for one in layers if one.change < ZERO]:
        yield f"{stack}, layers {ranges(identical)}: the output equals the input"
    for name in dict.fromkeys(name for one in layers for name in one.sublayers):
        dead = [one.layer for one in layers if one.sublayers.get(name, 1.0) < ZERO and one.layer not in identical]
        if dead:
            yield f"{stack}, layers {ranges(dead)}: the output of {name} is zero, or nearly"
    if large := [one.layer for one in layers if (one.score or 0.0) > LARGE_SCORE]:
        most = max(one.score or 0.0 for one in layers)
        yield f"{stack}, layers {ranges(large)}: attention scores of up to {most:.0f} saturate the softmax"


def _gradients(stack: str, layers: list[LayerStatistics]) -> Iterator[str]:
    if zero := [one.layer for one in layers if one.gradient == 0]:
        yield f"{stack}, layers {ranges(zero)}: the gradient is 0, so they do not learn"
    sizes = [one.gradient for one in layers if one.gradient]
    if not sizes:
        return
    usual = median(sizes)
    for word, odd in (
        ("larger", [one.layer for one in layers if one.gradient > UNEVEN * usual]),
        ("smaller", [one.layer for one in layers if 0 < one.gradient < usual / UNEVEN]),
    ):
        if odd:
            yield f"{stack}, layers {ranges(odd)}: the gradient is over {UNEVEN:.0f} times {word} than the median"
