"""What is unusual in the scales of a model at step 0, in words."""

import math
from collections.abc import Iterator
from itertools import groupby
from statistics import median

from blockformer.inspection.activation_statistics import Scale, Scales
from registry.text import ranges

GROWTH = 10.0
"""Over the second half of a stack; sums of independent sublayers grow with its root: less than 2."""
SHRINKAGE = 0.03
SURPRISE = 1.0
"""Nats above a uniform guess; logits with a standard deviation of s cost about s^2 / 2."""
UNEVEN = 100.0
SHARP = 50.0
"""A score this large leaves a softmax no gradient."""
TINY = 1e-6


def findings(told: Scales) -> list[str]:
    """One line for each thing that is unusual; none of them where a model is ready to be trained."""
    lines = list(_loss(told))
    for stack, layers in groupby(told.layers, lambda scale: scale.stack):
        lines += _stack(stack, list(layers))
    lines += [f"{name}: its gradient is {size}" for name, size in told.gradients.items() if not math.isfinite(size)]
    return lines


def _loss(told: Scales) -> Iterator[str]:
    if not math.isfinite(told.loss):
        yield f"the loss is {told.loss}"
    elif told.loss > told.uniform + SURPRISE:
        yield (
            f"the loss is {told.loss:.2f}, far above {told.uniform:.2f} of a uniform guess: the logits (standard "
            f"deviation {told.logits:.2g}) are too large; a smaller init, or a scale of the head, would mend it"
        )


def _stack(stack: str, layers: list[Scale]) -> Iterator[str]:
    if broken := [scale for scale in layers if not scale.finite]:
        first = broken[0]
        given = "from the start" if first.layer == 0 else f"after a stream of {first.stream:.2g}"
        yield f"{stack}: from layer {first.layer} on, {given}, not everything is a finite number: the stream explodes"
        return
    if wrong := [scale.layer for scale in layers if not math.isfinite(scale.gradient)]:
        yield f"{stack}, layers {ranges(wrong)}: the gradient is not finite"
        return
    middle, last = layers[len(layers) // 2], layers[-1]
    if middle.stream and last.out / middle.stream > GROWTH:
        yield (
            f"{stack}: the stream explodes: its root mean square is {middle.stream:.2g} before layer {middle.layer} "
            f"and {last.out:.2g} at the end; a norm in each layer, or a smaller init, would hold it"
        )
    if layers[0].stream and last.out / layers[0].stream < SHRINKAGE:
        yield f"{stack}: the stream vanishes, from {layers[0].stream:.2g} to {last.out:.2g}"
    yield from _layers(stack, layers)
    yield from _gradients(stack, layers)


def _layers(stack: str, layers: list[Scale]) -> Iterator[str]:
    if still := [scale.layer for scale in layers if scale.change < TINY]:
        yield f"{stack}, layers {ranges(still)}: nothing is added to the stream, so that they are the identity at first"
    for name in dict.fromkeys(name for scale in layers for name in scale.sublayers):
        dead = [scale.layer for scale in layers if scale.sublayers.get(name, 1.0) < TINY and scale.layer not in still]
        if dead:
            yield f"{stack}, layers {ranges(dead)}: {name} gives nothing but zeros, or next to it"
    if sharp := [scale.layer for scale in layers if (scale.score or 0.0) > SHARP]:
        most = max(scale.score or 0.0 for scale in layers)
        yield f"{stack}, layers {ranges(sharp)}: attention scores of up to {most:.0f} leave the softmax no gradient"


def _gradients(stack: str, layers: list[Scale]) -> Iterator[str]:
    if zero := [scale.layer for scale in layers if scale.gradient == 0]:
        yield f"{stack}, layers {ranges(zero)}: the gradient is 0, so that they learn nothing from the first step"
    sizes = [scale.gradient for scale in layers if scale.gradient]
    if not sizes:
        return
    usual = median(sizes)
    for words, odd in (
        ("larger", [scale.layer for scale in layers if scale.gradient > UNEVEN * usual]),
        ("smaller", [scale.layer for scale in layers if 0 < scale.gradient < usual / UNEVEN]),
    ):
        if odd:
            yield f"{stack}, layers {ranges(odd)}: the gradient is over {UNEVEN:.0f} times {words} than is usual here"
