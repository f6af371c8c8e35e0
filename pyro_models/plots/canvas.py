"""Helpers of all figures: canvases without global state, grids of panels, images in a panel."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

Extent = tuple[float, float, float, float]


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


def as_array(image: Tensor) -> np.ndarray:
    """Convert [channel, height, width] to [height, width, 3] for three channels, else to their mean [height, width]."""
    return image.cpu().permute(1, 2, 0).numpy() if len(image) == 3 else image.cpu().mean(0).numpy()


def group_legend(panel: Axes) -> None:
    """Add a legend of the groups beside the panel, at most twelve of them."""
    handles, names = panel.get_legend_handles_labels()
    if handles:
        panel.legend(
            handles[:12], names[:12], frameon=False, fontsize=8, markerscale=2, loc="upper left", bbox_to_anchor=(1, 1)
        )
