"""Pictures: functions that take tensors and return a figure."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import EllipseCollection
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from torch import Tensor

from pyro_models.checking.calibration import Ranks
from pyro_models.checking.predictive import Check

COLOURS = "tab10"
Extent = tuple[float, float, float, float]
Density = Callable[[Tensor], Tensor]


def _figure(width: float, height: float) -> Figure:
    """Make a figure that no global state keeps alive."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def learning_curves(
    metrics: Sequence[Mapping[str, float]], terms: Mapping[str, str], splits: Sequence[str] = ("train", "test")
) -> Figure:
    """Each term over the epochs.

    Args:
        metrics: one mapping an epoch, from `epoch` and `SPLIT_TERM` to numbers.
        terms: which terms, one panel each, and the unit of each, the pixel mode included.
        splits: which splits, together in each panel.
    """
    figure, panels = _panels(len(terms), 3, 4.2, 3.2)
    epochs = [row["epoch"] for row in metrics]
    for panel, (term, unit) in zip(panels, terms.items(), strict=True):
        for split in splits:
            values = [row[f"{split}_{term}"] for row in metrics]
            panel.plot(epochs, values, label=split, marker="." if len(epochs) < 10 else None)
        panel.set(title=term, xlabel="epoch", ylabel=textwrap.fill(unit, 34))
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


def plane(
    panels: Mapping[str, Tensor],
    labels: Tensor | None,
    limit: float | None = None,
    legend: str = "label",
    names: Sequence[str] = (),
) -> Figure:
    """Points in the plane, [n, 2] for each titled panel, coloured by label.

    Args:
        panels: from title to points.
        labels: whole numbers, [n], or None for one colour.
        limit: axes from -limit to limit; None fits each panel to its points.
        legend: what the colours are.
        names: of the labels, in their order; else their numbers.
    """
    figure = _figure(4.6 * len(panels) + 1.0, 4.4)
    for panel, (title, points) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        x, y = points.cpu().numpy().T
        size = 4 if len(points) > 4000 else 12
        colours: dict[str, Any] = {} if labels is None else {"c": labels.cpu(), "cmap": COLOURS}
        if labels is not None and labels.min() >= 0 and labels.max() < 10:
            colours |= {"vmin": 0, "vmax": 9}  # a label has one colour in every picture
        dots = panel.scatter(x, y, s=size, linewidths=0, alpha=0.7, **colours)
        panel.set_title(title)
        panel.set_aspect("equal" if limit else "auto")
        if limit:
            panel.set(xlim=(-limit, limit), ylim=(-limit, limit), xlabel="z[0]", ylabel="z[1]")
        else:
            panel.set(xticks=[], yticks=[])
    if labels is not None:
        handles, _ = dots.legend_elements(num=None)
        texts = [names[k] if names else f"{k}" for k in labels.unique().tolist()]
        figure.legend(handles, texts, loc="outside right center", frameon=False, title=legend)
    return figure


def rows(images: Tensor, names: Sequence[str], title: str) -> Figure:
    """Images in rows, each with its name: [rows, columns, channel, height, width]."""
    height, width = images.shape[-2:]
    count, columns = images.shape[:2]
    figure = _figure(0.6 + 0.1 * max(map(len, names)) + 0.6 * columns * width / height, 0.6 + 0.62 * count)
    figure.set_layout_engine("constrained", w_pad=0.2)
    panels = figure.subplots(count, 1, squeeze=False)[:, 0]
    for panel, several, name in zip(panels, images, names, strict=True):
        _show(panel, torch.cat(list(F.pad(several, (1, 1), value=0.3)), dim=-1))
        panel.set_ylabel(name, rotation=0, ha="right", va="center")
        panel.set_anchor("E")  # what the images do not take is room for the names
    figure.suptitle(title)
    return figure


def clouds(
    panels: Mapping[str, Mapping[str, Tensor]], sizes: Mapping[str, Mapping[str, Tensor]] | None = None
) -> Figure:
    """Points in the plane in named groups: [n, 2] for each group of each titled panel, all panels on the same axes.

    Args:
        panels: from title and group to points.
        sizes: from title and group to the radius of each point in the units of the axes, [n]; None draws dots.
    """
    figure = _figure(5.4 * len(panels), 4.4)
    drawn = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    reach: list[Tensor] = []
    for panel, (title, groups) in zip(drawn, panels.items(), strict=True):
        for number, (name, points) in enumerate(groups.items()):
            x, y = points.cpu().numpy().T
            radius = 0.0 if sizes is None else float(sizes[title][name].max())
            reach = [torch.cat([points.cpu() - radius, points.cpu() + radius]), *reach]
            if sizes is None:
                panel.scatter(x, y, s=5, linewidths=0, alpha=0.6, color=f"C{number % 10}", label=name)
                continue
            radii = sizes[title][name].cpu().numpy()
            discs = EllipseCollection(
                2 * radii, 2 * radii, 0 * radii, units="x", offsets=np.stack([x, y], 1), transOffset=panel.transData
            )
            discs.set(facecolor="none", edgecolor=f"C{number % 10}", alpha=0.5)
            panel.add_collection(discs)
            panel.scatter([], [], color=f"C{number % 10}", label=name)
        panel.set(title=title, xlabel="z[0]", ylabel="z[1]", aspect="equal")
        _legend(panel)
    lower, upper = torch.cat(reach).amin(0).tolist(), torch.cat(reach).amax(0).tolist()
    drawn[0].set(xlim=(lower[0], upper[0]), ylim=(lower[1], upper[1]))
    return figure


def _legend(panel: Axes) -> None:
    """Name the groups beside the panel; of more than twelve, as many as fit."""
    handles, names = panel.get_legend_handles_labels()
    if handles:
        panel.legend(
            handles[:12], names[:12], frameon=False, fontsize=8, markerscale=2, loc="upper left", bbox_to_anchor=(1, 1)
        )


def borders(panels: Mapping[str, tuple[Tensor, Tensor, Sequence[str]]], points: Tensor, limit: float) -> Figure:
    """Which value of an attribute is likeliest over the plane, how likely, and where data of each value are.

    Args:
        panels: from an attribute's name to the probabilities over a square grid, [grid * grid, values], its top row
            first; the value of each point, [n], -1 where it is not known; and the values' names.
        points: [n, 2].
        limit: the grid reaches from -limit to limit.
    """
    figure = _figure(5.4 * len(panels), 4.4)
    for panel, (name, (p, values, names)) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        side = math.isqrt(len(p))
        axis = np.linspace(-limit, limit, side)
        heights = p.cpu().numpy().reshape(side, side, -1)[::-1]
        likeliest = heights.argmax(-1)
        shade = to_rgba_array([f"C{k % 10}" for k in range(len(names))])[likeliest]
        shade[..., 3] = 0.4 * heights.max(-1)
        panel.imshow(shade, origin="lower", extent=(-limit, limit, -limit, limit))
        if likeliest.min() < likeliest.max():
            levels = np.arange(len(names) - 1) + 0.5
            panel.contour(axis, axis, likeliest, levels=levels, colors="0.3", linewidths=1.0)
        for k in values[values >= 0].unique().tolist():
            x, y = points[values == k].cpu().numpy().T
            panel.scatter(x, y, s=5, linewidths=0, alpha=0.6, color=f"C{k % 10}", label=names[k])
        panel.set(title=f"likeliest {name} (fainter where unsure), and test data", xlabel="z[0]", ylabel="z[1]")
        _legend(panel)
    return figure


def components(samples: Sequence[Tensor], locs: Tensor, covariances: Tensor, axes: str = "z") -> Figure:
    """Normal components in the plane: draws, and contours at one and two standard deviations.

    Args:
        samples: the draws of each component, [n, 2].
        locs: the means, [components, 2].
        covariances: [components, 2, 2].
        axes: the letter on the axes.
    """
    figure = _figure(6, 5.4)
    panel = figure.subplots()
    circle = torch.linspace(0, 2 * math.pi, 100)
    circle = torch.stack([circle.cos(), circle.sin()])
    for kind, (points, loc, covariance) in enumerate(zip(samples, locs, covariances, strict=True)):
        colour = f"C{kind % 10}"
        x, y = points.cpu().numpy().T
        panel.scatter(x, y, s=3, linewidths=0, alpha=0.4, color=colour)
        root = torch.linalg.cholesky(covariance.cpu())
        for radius in (1, 2):
            panel.plot(*(loc.cpu()[:, None] + radius * root @ circle.to(root)), color=colour, linewidth=1.2)
        panel.annotate(str(kind), loc.tolist(), ha="center", va="center", weight="bold")
    panel.set(xlabel=f"{axes}[0]", ylabel=f"{axes}[1]", title="p(z | y): draws, one and two standard deviations")
    return figure


def confusion(counts: Tensor, kinds: Sequence[int], labels: Sequence[int] | None = None) -> Figure:
    """How many data are of a kind and of a label: counts [kinds, labels], and what the rows and columns are."""
    figure = _figure(1.6 + 0.45 * counts.shape[1], 1.4 + 0.38 * counts.shape[0])
    panel = figure.subplots()
    shares = counts / counts.sum(0, keepdim=True).clamp(min=1)
    panel.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for kind, label in np.ndindex(*counts.shape):
        if counts[kind, label]:
            colour = "white" if shares[kind, label] > 0.5 else "black"
            panel.text(label, kind, str(int(counts[kind, label])), ha="center", va="center", fontsize=7, color=colour)
    panel.set(xticks=range(counts.shape[1]), yticks=range(counts.shape[0]), xlabel="label", ylabel="kind")
    panel.set_yticklabels([str(kind) for kind in kinds])
    if labels is not None:
        panel.set_xticklabels([str(label) for label in labels])
    panel.set_title("test data of each kind and label")
    return figure


def scores(of: Mapping[str, Sequence[float]]) -> Figure:
    """Scores between 0 and 1 of each class, a row a score: from its name to a value a class."""
    table = np.array(list(of.values()))
    figure = _figure(1.6 + 0.55 * table.shape[1], 0.9 + 0.45 * len(of))
    panel = figure.subplots()
    panel.imshow(table, cmap="Blues", vmin=min(0.9, table.min()), vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        dark = value > (1 + min(0.9, table.min())) / 2
        panel.text(
            column, row, f"{value:.3f}", ha="center", va="center", fontsize=8, color="white" if dark else "black"
        )
    panel.set(xticks=range(table.shape[1]), yticks=range(len(of)), yticklabels=list(of), xlabel="class")
    panel.set_title("test data, each class")
    return figure


def steps(images: Tensor, step: Tensor, before: Sequence[str], after: Sequence[str], title: str) -> Figure:
    """Images, steps away from them, and where these lead, [n, channel, height, width], with what is said of each."""
    figure = _figure(1.1 * len(images) + 0.8, 4.2)
    rows = figure.subplots(3, len(images), squeeze=False)
    largest = float(step.abs().max())
    for column, (image, change) in enumerate(zip(images, step, strict=True)):
        _show(rows[0][column], image)
        rows[1][column].imshow(change.mean(0).cpu().numpy(), cmap="RdBu", vmin=-largest, vmax=largest)
        rows[1][column].set(xticks=[], yticks=[])
        _show(rows[2][column], (image + change).clamp(0, 1))
        rows[0][column].set_title(before[column], fontsize=9)
        rows[2][column].set_title(after[column], fontsize=9)
    for row, name in zip(rows, ("x", "r (blue: more ink)", "x + r"), strict=True):
        row[0].set_ylabel(name)
    figure.suptitle(title)
    return figure


def points(
    data: Tensor, kinds: Tensor, drawn: Tensor, kinds_drawn: Tensor, names: Sequence[str], density: Density | None
) -> Figure:
    """A table's rows and a story's draws in the plane, coloured by kind, and the story's density under the rows.

    Args:
        data, drawn: rows, [n, 2] and [m, 2].
        kinds, kinds_drawn: inferred for the rows, and those of the draws: [n], [m].
        names: of the two axes.
        density: from points [n, 2] to densities [n]; None leaves that panel out.
    """
    figure = _figure(4.4 * (3 if density else 2), 4.2)
    panels = figure.subplots(1, 3 if density else 2, sharex=True, sharey=True)
    colours: dict[str, Any] = {"cmap": COLOURS, "vmin": 0, "vmax": 9, "s": 8, "linewidths": 0}
    panels[0].scatter(*data.T, c=kinds % 10, **colours)
    panels[0].set_title("data, by inferred kind")
    panels[1].scatter(*drawn.T, c=kinds_drawn % 10, **colours)
    panels[1].set_title("draws from the story, by kind")
    for panel in panels:
        panel.set(xlabel=names[0], ylabel=names[1])
    if density:
        lower, upper = data.amin(0) - 0.5, data.amax(0) + 0.5
        grid = plane_of_codes(lower, upper, 120)
        heights = density(grid).reshape(120, 120)
        extent = (float(lower[0]), float(upper[0]), float(lower[1]), float(upper[1]))
        panels[2].imshow(heights.numpy(), extent=extent, cmap="magma_r", aspect="auto")
        panels[2].scatter(*data.T, s=2, color="black", linewidths=0, alpha=0.3)
        panels[2].set_title("density of the story, and the data")
    return figure


def comparison(
    bounds: Mapping[str, tuple[float, float]],
    ratios: Mapping[str, Mapping[str, float]],
    times: Mapping[str, float],
    unit: str,
) -> Figure:
    """Estimators beside each other.

    Args:
        bounds: the mean and the standard error of each.
        ratios: the signal-to-noise ratio of each, for each group of parameters.
        times: milliseconds a step.
        unit: of the bounds.
    """
    figure = _figure(13, 1.4 + 0.4 * len(bounds))
    panels = figure.subplots(1, 3, sharey=True)
    rows = np.arange(len(bounds))
    means, errors = zip(*bounds.values(), strict=True)
    panels[0].errorbar(means, rows, xerr=errors, fmt="o", capsize=3)
    panels[0].set(title="bound, and its standard error", xlabel=unit, yticks=rows, yticklabels=list(bounds))
    for group in next(iter(ratios.values())):
        panels[1].plot([each[group] for each in ratios.values()], rows, "o", label=group, alpha=0.8)
    panels[1].set(title="signal / noise of the gradient", xscale="log")
    panels[1].xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    panels[1].xaxis.set_major_formatter("{x:g}")
    panels[1].xaxis.set_minor_formatter(NullFormatter())
    panels[1].legend(frameon=False, fontsize=8)
    panels[2].barh(rows, list(times.values()), color="grey")
    panels[2].set(title="one step", xlabel="ms")
    panels[0].invert_yaxis()
    return figure


def checks(checked: Sequence[Check], title: str, most: int = 24) -> Figure:
    """A statistic of prior and posterior replicates in each panel, and a line at the data's; the least likely first."""
    chosen = sorted(checked, key=lambda one: min(result["two_sided"] for result in one.against.values()))[:most]
    figure, panels = _panels(len(chosen), 4, 3.6, 2.6)
    for panel, one in zip(panels, chosen, strict=True):
        every = torch.cat([torch.tensor([one.observed]), *one.replicated.values()])
        edges = torch.linspace(float(every.min()), float(every.max()) + 1e-9, 31).tolist()
        for given, values in one.replicated.items():
            panel.hist(values.tolist(), edges, alpha=0.6, label=f"{given}, p = {one.against[given]['p']:.2f}")
        panel.axvline(one.observed, color="black", linewidth=2, label="data")
        panel.set_title(textwrap.fill(f"{one.site}: {one.statistic}", 42), fontsize=9)
        panel.set(yticks=[])
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.legend(frameon=False, fontsize=7)
    figure.suptitle(title + (f"; the {most} least likely of {len(checked)} statistics" if len(checked) > most else ""))
    return figure


def ranks(found: Sequence[Ranks], most: int = 24) -> Figure:
    """How many ranks of each latent fall into equal parts of their range, least uniform first; grey: as expected."""
    chosen = sorted(found, key=lambda one: one.p)[:most]
    figure, panels = _panels(len(chosen), 6, 2.2, 1.9)
    for panel, one in zip(panels, chosen, strict=True):
        panel.bar(range(len(one.counts)), one.counts, width=1.0)
        panel.axhspan(*one.band, color="grey", alpha=0.4)
        panel.set_title(f"{one.latent}, p = {one.p:.2g}", fontsize=9)
        panel.set(xticks=[], yticks=[])
    figure.suptitle(f"ranks of the story's latents among {found[0].draws} draws of the guide")
    return figure


def _panels(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Make a figure of `count` panels in rows."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = _figure(width * columns, height * rows)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel in panels[count:]:
        panel.remove()
    return figure, list(panels[:count])


def pixel_means(means: Sequence[Tensor], title: str) -> Figure:
    """The mean of each pixel of the data and of two replicates, [channel, height, width], and how the latter differ."""
    changes = [(image - means[0]).mean(0, keepdim=True) for image in means[1:]]
    largest = max(float(change.abs().max()) for change in changes)
    names = ("data", "a prior replicate", "a posterior replicate", "prior less data", "posterior less data")
    figure = _figure(12, 0.6 + 2.4 * means[0].shape[1] / means[0].shape[2])
    panels = figure.subplots(1, 5)
    for panel, image, name in zip(panels, [*means, *changes], names, strict=True):
        _show(panel, image)
        panel.set_title(name, fontsize=9)
    for panel in panels[3:]:
        panel.images[0].set(cmap="RdBu", clim=(-largest, largest))
    figure.suptitle(f"mean of each pixel, {title} (blue: more, to {largest:.2f})", fontsize=10)
    return figure


def rolls(panels: Mapping[str, Tensor]) -> Figure:
    """Draws from the simplex over the faces of a die, [n, faces] for each titled panel: each roll a column."""
    figure = _figure(9, 1.3 * len(panels))
    grid = figure.subplots(len(panels), 2, squeeze=False, width_ratios=[6, 1], sharey="row")
    for (panel, means), (title, draws) in zip(grid, panels.items(), strict=True):
        faces = range(1, draws.shape[1] + 1)
        extent = (0, len(draws), faces[-1] + 0.5, 0.5)
        panel.imshow(draws.T, cmap="gray_r", vmin=0, vmax=1, aspect="auto", extent=extent)
        panel.set(title=title, yticks=faces, xticks=[])
        means.barh(faces, draws.mean(0), color="grey")
        means.set(xlim=(0, 1), title="mean")
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
    line = 0.0 if width == height else 0.3  # of images that are not square nobody knows where one ends
    images, height, width = F.pad(images, (1, 1, 1, 1), value=line), height + 2, width + 2
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
