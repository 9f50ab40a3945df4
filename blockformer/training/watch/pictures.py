"""Attention maps as pictures."""

from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from blockformer.errors import UserError
from blockformer.files import replacing

ACROSS = 8
"""Most heads beside each other."""


def require_matplotlib(option: str) -> None:
    """Check that pictures can be drawn.

    Raises:
        UserError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise UserError(f"{option} draws with matplotlib, which is not installed: pip install 'blockformer[pictures]'")


def draw_maps(path: Path, maps: Tensor, title: str) -> None:
    """Write a PNG with one panel for each row of the batch and each head: queries downwards, keys to the right.

    The colours are those of the square roots of the weights, from 0 to 1, so that small ones can be told apart; what a
    query cannot see is grey.

    Args:
        path: the file.
        maps: (B, H, T, S) weights, NaN where a query cannot see a key.
        title: above the panels.

    Raises:
        OSError: it cannot be written.
    """
    from matplotlib import colormaps  # takes half a second, and only needed here
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    rows, heads = maps.shape[:2]
    across = min(heads, ACROSS)
    down = -(-heads // across)
    width, height = 1.4 + 1.6 * across, 1.1 + 1.75 * rows * down  # inches
    figure = Figure(figsize=(width, height))
    grid = {"left": 0.6 / width, "right": 1 - 0.8 / width, "bottom": 0.5 / height, "top": 1 - 0.6 / height}
    gaps = {"wspace": 0.1, "hspace": 0.2}
    panels = figure.subplots(rows * down, across, squeeze=False, sharex=True, sharey=True, gridspec_kw=grid | gaps)
    colours = colormaps["viridis"].with_extremes(bad="0.8")
    image = None
    for number in range(rows * down * across):
        row, head = divmod(number, down * across)
        panel = panels[number // across][number % across]
        if head >= heads:
            panel.axis("off")
            panels[number // across - 1][number % across].tick_params(labelbottom=True)
            continue
        scale = PowerNorm(0.5, vmin=0, vmax=1)
        image = panel.imshow(maps[row, head].numpy(), cmap=colours, norm=scale, interpolation="nearest", aspect="auto")
        panel.set_title(f"row {row}, head {head}", fontsize=7)
        panel.tick_params(labelsize=6)
    figure.suptitle(title, fontsize=9)
    figure.supxlabel("key", fontsize=8)
    figure.supylabel("query", fontsize=8)
    if image is not None:
        bar = figure.add_axes((1 - 0.6 / width, grid["bottom"], 0.12 / width, grid["top"] - grid["bottom"]))
        figure.colorbar(image, cax=bar).ax.tick_params(labelsize=6)
    with replacing(path) as stream:
        figure.savefig(stream, format="png", dpi=100)
