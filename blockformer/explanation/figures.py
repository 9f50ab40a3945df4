"""The steps of an explanation as PNG figures, for slides."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blockformer.explanation.explanation import Explanation
from blockformer.explanation.fonts import Fonts, fonts_for
from blockformer.explanation.steps import Step
from blockformer.files import replacing

ACROSS, MOST_PANELS = 4, 8
SHARES = ("weights", "probabilities")
UNSAFE = re.compile(r"[^\w.-]+")


def draw_figures(folder: Path, explanation: Explanation) -> tuple[int, frozenset[str]]:
    """Draw each step into a file ``003-decoder.layers.0.mixer.weights.png``, with a panel for each of the first heads.

    Args:
        folder: where; it is created if necessary, and files of the same names are replaced.
        explanation: whose steps are drawn.

    Returns:
        The number of figures; and the characters of tokens that no installed font has: their code points are drawn.

    Raises:
        OSError: they cannot be written.
    """
    from matplotlib import rc_context  # takes half a second, and only needed here

    tokens = {token.text for text in explanation.texts for token in text} | set(explanation.vocabulary.values())
    fonts = fonts_for(sorted(map(_short, tokens)))
    with rc_context({"font.family": fonts.families}):
        for number, step in enumerate(explanation.steps):
            _draw(folder / f"{number:03}-{UNSAFE.sub('-', step.label)}.png", explanation, step, fonts)
    return len(explanation.steps), fonts.missing


def _draw(path: Path, explanation: Explanation, step: Step, fonts: Fonts) -> None:
    from matplotlib.figure import Figure

    panels, titles = _panels(step)
    across = min(len(panels), ACROSS)
    down = -(-len(panels) // across)
    several = len(panels) > 1
    wide, high = (2.6, 2.6) if several else (6.5, 1.2 + 0.22 * min(20, panels.shape[1]))
    figure = Figure(figsize=(0.9 + wide * across, 0.9 + high * down))
    grid = figure.subplots(down, across, squeeze=False)
    names = _names(explanation, step, -1, fonts), _names(explanation, step, -2, fonts)
    most = max(float(panels.nan_to_num().abs().max()), 1e-30)
    image = None
    for place in range(down * across):
        panel = grid[place // across][place % across]
        if place >= len(panels):
            panel.axis("off")
            continue
        known = names[0], names[1] if place % across == 0 else []
        image = _panel(panel, panels[place], known, 1.0 if step.name in SHARES else most, shares=step.name in SHARES)
        if several:
            panel.set_title(titles[place], fontsize=8)
    figure.suptitle(f"{step.label}, {' x '.join(map(str, step.value.shape))}", fontsize=9)
    if image is not None:
        figure.colorbar(image, ax=grid, shrink=0.7).ax.tick_params(labelsize=7)
    with replacing(path) as stream:
        figure.savefig(stream, format="png", dpi=110, bbox_inches="tight")


def _panels(step: Step) -> tuple[Tensor, list[str]]:
    """(N, rows, columns), NaN where nothing is visible; and what each of the N panels is of."""
    axes, index = step.value.axes, step.value.index
    data = step.value.data.masked_fill(step.value.data.isinf(), torch.nan)
    if data.ndim < 3:
        return data.view(1, -1, data.shape[-1]), [""]
    titles = [""]
    for axis, places in zip(axes[:-2], index[:-2], strict=True):
        titles = [f"{title} {axis} {place}".strip() for title in titles for place in places]
    part = slice(-MOST_PANELS, None) if "token" in axes[:-2] else slice(MOST_PANELS)  # of states the last
    return data.flatten(0, -3)[part], titles[part]


def _panel(panel: Any, values: Tensor, names: tuple[list[str], list[str]], most: float, *, shares: bool) -> Any:
    from matplotlib import colormaps

    colours = colormaps["Blues" if shares else "PuOr_r"].with_extremes(bad="0.75")
    limits = {"vmin": 0.0 if shares else -most, "vmax": most}
    image = panel.imshow(values.numpy(), cmap=colours, aspect="auto", interpolation="nearest", **limits)
    for axis, known, turn in ((panel.xaxis, names[0], 60), (panel.yaxis, names[1], 0)):
        if known and len(known) <= 24:
            axis.set_ticks(range(len(known)), known, fontsize=7, rotation=turn)
        else:
            axis.set_ticks([])
    return image


def _names(explanation: Explanation, step: Step, axis: int, fonts: Fonts) -> list[str]:
    """What stands at the kept places of an axis; empty: their numbers say nothing."""
    if len(step.value.axes) < -axis:
        return []
    name, index = step.value.axes[axis], step.value.index[axis]
    if name in ("token", "key"):
        text = explanation.texts[step.keys if name == "key" else step.sequence]
        return [_drawn(text[at].text, fonts) for at in index]
    if name == "vocabulary":
        return [_drawn(explanation.vocabulary.get(at, str(at)), fonts) for at in index]
    return [str(at) for at in index] if name in ("expert", "choice") else []


def _short(text: str) -> str:
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")[:12]


def _drawn(text: str, fonts: Fonts) -> str:
    return fonts.written(_short(text)).replace("$", r"\$")
