"""Images: reconstructions, labelled rows, grids, pixel means and adversarial steps."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from matplotlib.animation import FuncAnimation
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_models.plots.canvas import Extent, as_array, new_figure, set_title, show_image, styled


@styled
def reconstructions(originals: Tensor, decoded: Tensor, title: str = "") -> Figure:
    """Draw images above their reconstructions, both [n, *image]."""
    return image_rows(torch.stack([originals, decoded]), ["image", "decoded"], title)


def reconstruction_animation(originals: Tensor, frames: Tensor, epochs: Sequence[int]) -> FuncAnimation:
    """Animate images above their reconstructions after each epoch: frames [epochs, n, *image]."""
    figure = reconstructions(originals, frames[0], f"epoch {epochs[0]}")
    picture = figure.axes[1].images[0]

    def draw(frame: int) -> list:
        picture.set_data(as_array(_side_by_side(frames[frame])))
        figure.suptitle(f"epoch {epochs[frame]}")
        return [picture]

    return FuncAnimation(figure, draw, frames=len(epochs), interval=200, repeat_delay=2000)


@styled
def image_rows(images: Tensor, names: Sequence[str], title: str) -> Figure:
    """Draw rows of images, [rows, columns, channel, height, width], and the name of each row."""
    height, width = images.shape[-2:]
    count, columns = images.shape[:2]
    figure = new_figure(0.6 + 0.1 * max(map(len, names)) + 0.6 * columns * width / height, 0.6 + 0.62 * count)
    figure.set_layout_engine("constrained", w_pad=0.2)
    panels = figure.subplots(count, 1, squeeze=False)[:, 0]
    for panel, row, name in zip(panels, images, names, strict=True):
        show_image(panel, _side_by_side(row))
        panel.set_ylabel(name, rotation=0, ha="right", va="center")
        panel.set_anchor("E")  # leaves the rest of the width to the names
    set_title(figure, title)
    return figure


def _side_by_side(images: Tensor, border: float = 0.3) -> Tensor:
    """Join images [n, channel, height, width], a pixel of border left and right of each, into one: one panel a row of
    images is drawn many times faster than one panel an image."""
    return torch.cat(list(F.pad(images, (1, 1), value=border)), dim=-1)


@styled
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
    set_title(figure, title)
    return figure


@styled
def pixel_means(means: Sequence[Tensor], title: str) -> Figure:
    """Draw pixel means of data, prior and posterior replicates, [channel, height, width], and their differences."""
    changes = [(image - means[0]).mean(0, keepdim=True) for image in means[1:]]
    largest = max(float(change.abs().max()) for change in changes)
    names = ("data", "a prior replicate", "a posterior replicate", "prior minus data", "posterior minus data")
    figure = new_figure(12, 0.6 + 2.4 * means[0].shape[1] / means[0].shape[2])
    panels = figure.subplots(1, 5)
    for panel, image, name in zip(panels, [*means, *changes], names, strict=True):
        show_image(panel, image)
        set_title(panel, name)
    for panel in panels[3:]:
        panel.images[0].set(cmap="RdBu", clim=(-largest, largest))
    set_title(figure, f"mean of each pixel, {title} (blue: more, to {largest:.2f})")
    return figure


@styled
def adversarial_steps(images: Tensor, step: Tensor, before: Sequence[str], after: Sequence[str], title: str) -> Figure:
    """Draw images, adversarial steps and their sums, [n, channel, height, width], titled with predictions."""
    figure = new_figure(1.1 * len(images) + 0.8, 4.2)
    panels = figure.subplots(3, 1)
    largest = float(step.abs().max())
    show_image(panels[0], _side_by_side(images))
    show_image(panels[1], _side_by_side(step.mean(1, keepdim=True), border=0.0))
    panels[1].images[0].set(cmap="RdBu", clim=(-largest, largest))
    show_image(panels[2], _side_by_side((images + step).clamp(0, 1)))
    middles = (torch.arange(len(images)) + 0.5) * (images.shape[-1] + 2) - 0.5
    for panel, predictions in ((panels[0], before), (panels[2], after)):
        panel.xaxis.tick_top()
        panel.set_xticks(middles.tolist(), predictions)
        panel.tick_params(length=0)
    for panel, name in zip(panels, ("x", "r (blue: more ink)", "x + r"), strict=True):
        panel.set_ylabel(name)
    set_title(figure, title)
    return figure
