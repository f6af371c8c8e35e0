"""Pictures: functions that take tensors and return a figure."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

COLOURS = "tab10"
Extent = tuple[float, float, float, float]


def _figure(width: float, height: float) -> Figure:
    """Make a figure that no global state keeps alive."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def learning_curves(
    metrics: Sequence[Mapping[str, float]],
    terms: Mapping[str, str],
    splits: Sequence[str] = ("train", "test"),
) -> Figure:
    """Each term over the epochs.

    Args:
        metrics: one mapping an epoch, from `epoch` and `SPLIT_TERM` to numbers.
        terms: which terms, one panel each, and the unit of each, the pixel mode included.
        splits: which splits, together in each panel.
    """
    figure = _figure(4.2 * len(terms), 3.2)
    epochs = [row["epoch"] for row in metrics]
    panels = np.atleast_1d(figure.subplots(1, len(terms)))
    for panel, (term, unit) in zip(panels, terms.items(), strict=True):
        for split in splits:
            values = [row[f"{split}_{term}"] for row in metrics]
            panel.plot(epochs, values, label=split, marker="." if len(epochs) < 10 else None)
        panel.set(title=term, xlabel="epoch", ylabel=unit)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.legend(frameon=False)
    return figure


def reconstructions(originals: Tensor, decoded: Tensor, title: str = "") -> Figure:
    """Originals above their reconstructions, both [n, *image]."""
    figure = _figure(0.8 * len(originals) + 0.8, 2.2)
    rows = figure.subplots(2, len(originals), squeeze=False)
    for row, images, name in zip(rows, (originals, decoded), ("image", "decoded"), strict=True):
        for panel, image in zip(row, images, strict=True):
            _show(panel, image)
        row[0].set_ylabel(name)
    figure.suptitle(title)
    return figure


def reconstruction_animation(originals: Tensor, frames: Tensor, epochs: Sequence[int]) -> FuncAnimation:
    """Originals above what each of some epochs made of them: frames [epochs, n, *image]."""
    figure = reconstructions(originals, frames[0], f"epoch {epochs[0]}")
    pictures = [panel.images[0] for panel in figure.axes[len(originals) :]]

    def draw(frame: int) -> list:
        for picture, image in zip(pictures, frames[frame], strict=True):
            picture.set_data(_as_array(image))
        figure.suptitle(f"epoch {epochs[frame]}")
        return pictures

    return FuncAnimation(figure, draw, frames=len(epochs), interval=200, repeat_delay=2000)


def plane(panels: Mapping[str, Tensor], labels: Tensor | None, limit: float | None = None) -> Figure:
    """Points in the plane, [n, 2] for each titled panel, coloured by label.

    Args:
        panels: from title to points.
        labels: whole numbers, [n], or None for one colour.
        limit: axes from -limit to limit; None fits each panel to its points.
    """
    figure = _figure(4.6 * len(panels) + 0.6, 4.4)
    for panel, (title, points) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        x, y = points.cpu().numpy().T
        size = 4 if len(points) > 4000 else 12
        colours = {} if labels is None else {"c": labels.cpu(), "cmap": COLOURS}
        dots = panel.scatter(x, y, s=size, linewidths=0, alpha=0.7, **colours)
        panel.set_title(title)
        panel.set_aspect("equal" if limit else "auto")
        if limit:
            panel.set(xlim=(-limit, limit), ylim=(-limit, limit), xlabel="z[0]", ylabel="z[1]")
        else:
            panel.set(xticks=[], yticks=[])
    if labels is not None:
        figure.legend(
            *dots.legend_elements(num=None, fmt="{x:g}"), loc="outside right center", frameon=False, title="label"
        )
    return figure


def tsne(points: Tensor, seed: int = 0) -> Tensor:
    """Lay points [n, d] out in the plane, [n, 2], by t-SNE (van der Maaten and Hinton, 2008)."""
    from sklearn.manifold import TSNE

    flat = points.flatten(1).double().cpu().numpy()
    perplexity = min(30.0, (len(flat) - 1) / 3)
    start = "pca" if flat.shape[1] > 1 else "random"
    return torch.from_numpy(TSNE(init=start, random_state=seed, perplexity=perplexity).fit_transform(flat))


def image_grid(images: Tensor, columns: int, title: str = "", extent: Extent | None = None) -> Figure:
    """Images [n, channel, height, width] as one sheet, row by row.

    Args:
        images: values in [0, 1].
        columns: images in a row; it divides n.
        title: above the sheet.
        extent: left, right, bottom and top of the plane that the sheet covers; None leaves the axes out.
    """
    n, channels, height, width = images.shape
    figure = _figure(6, 6 * (n // columns) * height / (columns * width) + 0.4)
    panel = figure.subplots()
    images, height, width = F.pad(images, (1, 1, 1, 1)), height + 2, width + 2  # a gap between the images
    sheet = images.reshape(n // columns, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    _show(panel, sheet.reshape(channels, -1, columns * width), extent)
    if extent is not None:
        panel.set(xlabel="z[0]", ylabel="z[1]", aspect="auto")
        panel.xaxis.set_major_locator(MaxNLocator(7))
        panel.yaxis.set_major_locator(MaxNLocator(7))
    figure.suptitle(title)
    return figure


def plane_of_codes(lower: Tensor, upper: Tensor, steps: int) -> Tensor:
    """Codes on a grid of the plane as a sheet shows it: [steps * steps, 2], top row first."""
    across = torch.linspace(float(lower[0]), float(upper[0]), steps)
    up = torch.linspace(float(lower[1]), float(upper[1]), steps)
    return torch.stack([across.repeat(steps), up.flip(0).repeat_interleave(steps)], dim=-1)


def _show(panel: Axes, image: Tensor, extent: Extent | None = None) -> None:
    panel.imshow(_as_array(image), cmap="gray_r", vmin=0, vmax=1, extent=extent)
    panel.set(xticks=[], yticks=[])


def _as_array(image: Tensor) -> np.ndarray:
    """[channel, height, width] as matplotlib wants it: grey for one channel, colour for three."""
    return image.cpu().squeeze(0).numpy() if len(image) == 1 else image.cpu().permute(1, 2, 0).numpy()
