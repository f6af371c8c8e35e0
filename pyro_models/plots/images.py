"""Images: reconstructions, labelled rows, grids, pixel means and adversarial steps."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from matplotlib.animation import FuncAnimation
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_models.plots.canvas import Extent, as_array, new_figure, show_image


def reconstructions(originals: Tensor, decoded: Tensor, title: str = "") -> Figure:
    """Draw images above their reconstructions, both [n, *image]."""
    figure = new_figure(0.8 * len(originals) + 0.8, 2.2)
    rows = figure.subplots(2, len(originals), squeeze=False)
    for row, images, name in zip(rows, (originals, decoded), ("image", "decoded"), strict=True):
        for panel, image in zip(row, images, strict=True):
            show_image(panel, image)
        row[0].set_ylabel(name)
    figure.suptitle(title)
    return figure


def reconstruction_animation(originals: Tensor, frames: Tensor, epochs: Sequence[int]) -> FuncAnimation:
    """Animate images above their reconstructions after each epoch: frames [epochs, n, *image]."""
    figure = reconstructions(originals, frames[0], f"epoch {epochs[0]}")
    pictures = [panel.images[0] for panel in figure.axes[len(originals) :]]

    def draw(frame: int) -> list:
        for picture, image in zip(pictures, frames[frame], strict=True):
            picture.set_data(as_array(image))
        figure.suptitle(f"epoch {epochs[frame]}")
        return pictures

    return FuncAnimation(figure, draw, frames=len(epochs), interval=200, repeat_delay=2000)


def image_rows(images: Tensor, names: Sequence[str], title: str) -> Figure:
    """Draw rows of images, [rows, columns, channel, height, width], and the name of each row."""
    height, width = images.shape[-2:]
    count, columns = images.shape[:2]
    figure = new_figure(0.6 + 0.1 * max(map(len, names)) + 0.6 * columns * width / height, 0.6 + 0.62 * count)
    figure.set_layout_engine("constrained", w_pad=0.2)
    panels = figure.subplots(count, 1, squeeze=False)[:, 0]
    for panel, row, name in zip(panels, images, names, strict=True):
        show_image(panel, torch.cat(list(F.pad(row, (1, 1), value=0.3)), dim=-1))
        panel.set_ylabel(name, rotation=0, ha="right", va="center")
        panel.set_anchor("E")  # leaves the rest of the width to the names
    figure.suptitle(title)
    return figure


def image_grid(images: Tensor, columns: int, title: str = "", extent: Extent | None = None) -> Figure:
    """Draw images [n, channel, height, width] as a grid, row by row.

    Args:
        images: values in [0, 1].
        columns: the number of images in a row, a divisor of n.
        title: above the grid.
        extent: left, right, bottom and top of the latent plane that the grid covers; None draws no axes.
    """
    n, channels, height, width = images.shape
    figure = new_figure(6, 6 * (n // columns) * height / (columns * width) + 0.4)
    panel = figure.subplots()
    line = 0.0 if width == height else 0.3  # images that are not square need borders to be told apart
    images, height, width = F.pad(images, (1, 1, 1, 1), value=line), height + 2, width + 2
    grid = images.reshape(n // columns, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    show_image(panel, grid.reshape(channels, -1, columns * width), extent)
    if extent is not None:
        panel.set(xlabel="z[0]", ylabel="z[1]", aspect="auto")
        panel.xaxis.set_major_locator(MaxNLocator(7))
        panel.yaxis.set_major_locator(MaxNLocator(7))
    figure.suptitle(title)
    return figure


def pixel_means(means: Sequence[Tensor], title: str) -> Figure:
    """Draw pixel means of data, prior and posterior replicates, [channel, height, width], and their differences."""
    changes = [(image - means[0]).mean(0, keepdim=True) for image in means[1:]]
    largest = max(float(change.abs().max()) for change in changes)
    names = ("data", "a prior replicate", "a posterior replicate", "prior minus data", "posterior minus data")
    figure = new_figure(12, 0.6 + 2.4 * means[0].shape[1] / means[0].shape[2])
    panels = figure.subplots(1, 5)
    for panel, image, name in zip(panels, [*means, *changes], names, strict=True):
        show_image(panel, image)
        panel.set_title(name, fontsize=9)
    for panel in panels[3:]:
        panel.images[0].set(cmap="RdBu", clim=(-largest, largest))
    figure.suptitle(f"mean of each pixel, {title} (blue: more, to {largest:.2f})", fontsize=10)
    return figure


def adversarial_steps(images: Tensor, step: Tensor, before: Sequence[str], after: Sequence[str], title: str) -> Figure:
    """Draw images, adversarial steps and their sums, [n, channel, height, width], titled with predictions."""
    figure = new_figure(1.1 * len(images) + 0.8, 4.2)
    rows = figure.subplots(3, len(images), squeeze=False)
    largest = float(step.abs().max())
    for column, (image, change) in enumerate(zip(images, step, strict=True)):
        show_image(rows[0][column], image)
        rows[1][column].imshow(change.mean(0).cpu().numpy(), cmap="RdBu", vmin=-largest, vmax=largest)
        rows[1][column].set(xticks=[], yticks=[])
        show_image(rows[2][column], (image + change).clamp(0, 1))
        rows[0][column].set_title(before[column], fontsize=9)
        rows[2][column].set_title(after[column], fontsize=9)
    for row, name in zip(rows, ("x", "r (blue: more ink)", "x + r"), strict=True):
        row[0].set_ylabel(name)
    figure.suptitle(title)
    return figure
