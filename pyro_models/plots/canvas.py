"""The style of all figures, and their helpers: canvases without global state, grids of panels, images in a panel."""

import functools
import math
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
from cycler import cycler
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

P = ParamSpec("P")
Extent = tuple[float, float, float, float]
PALETTE = ("#332288", "#cc6677", "#117733", "#ddaa33", "#88ccee", "#882255", "#44aa99", "#999933", "#aa4499", "#000000")
"""Colours of groups, which differ for the colour-blind too: Paul Tol's muted scheme, its sand darker, and black."""
STYLE: Any = {
    "font.size": 9,
    "figure.titlesize": 10,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=PALETTE),
    "savefig.dpi": 110,
    "pdf.fonttype": 42,  # fonts as they are, which journals take
    "svg.fonttype": "path",
}
"""The style sheet of every figure; `matplotlib.rcParams.update(plots.STYLE)` gives it to figures of your own."""


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Give the figures that a function draws the style of all."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the path ends in; fonts are embedded in PDF, and drawn as paths in SVG."""
    with rc_context(STYLE):
        figure.savefig(path)


def colour_of(number: int) -> str:
    """Return the colour of a group by its number; they repeat after ten."""
    return PALETTE[number % len(PALETTE)]


def set_title(target: Figure | Axes, text: str, share: float = 0.8) -> None:
    """Set the title of a figure, or of a panel of a figure that is one row of panels wide, in lines that fit.

    Args:
        target: the figure or the panel.
        text: the title.
        share: of the panel's width that the title may take, less where a legend stands beside it.
    """
    if isinstance(target, Figure):
        target.suptitle(wrapped(text, target.get_figwidth() - 0.2, STYLE["figure.titlesize"]))
    else:
        columns = target.get_subplotspec().get_gridspec().ncols  # type: ignore[union-attr]
        width = target.figure.get_figwidth() / columns  # type: ignore[union-attr]
        target.set_title(wrapped(text, share * width, STYLE["axes.titlesize"]))


def wrapped(text: str, inches: float, size: float) -> str:
    """Break a text into lines that are no wider; a letter is at most 0.62 of its size wide, on average."""
    return textwrap.fill(text, max(8, int(72 * inches / (0.62 * size))))


def new_figure(width: float, height: float) -> Figure:
    """Make a figure that pyplot does not keep alive."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_panels(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Make a figure of `count` panels, in rows of at most `columns`."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = new_figure(width * columns, height * rows)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel in panels[count:]:
        panel.remove()
    return figure, list(panels[:count])


def show_image(panel: Axes, image: Tensor, extent: Extent | None = None) -> None:
    """Show an image [channel, height, width] without ticks, from 0 (white) to 1 (black)."""
    panel.imshow(as_array(image), cmap="gray_r", vmin=0, vmax=1, extent=extent)
    panel.set(xticks=[], yticks=[])
    panel.spines[:].set_visible(False)


def as_array(image: Tensor) -> np.ndarray:
    """Convert [channel, height, width] to [height, width, 3] for three channels, else to their mean [height, width]."""
    return image.cpu().permute(1, 2, 0).numpy() if len(image) == 3 else image.cpu().mean(0).numpy()


def group_legend(panel: Axes) -> None:
    """Add a legend of the groups beside the panel, at most twelve of them."""
    handles, names = panel.get_legend_handles_labels()
    if handles:
        panel.legend(handles[:12], names[:12], markerscale=2, loc="upper left", bbox_to_anchor=(1, 1))
