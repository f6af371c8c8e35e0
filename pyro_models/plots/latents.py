"""Points in the plane: latents, clusters, decision regions and mixture components."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.collections import EllipseCollection
from matplotlib.colors import ListedColormap, to_rgba_array
from matplotlib.figure import Figure
from torch import Tensor

from pyro_models.plots.canvas import PALETTE, colour_of, group_legend, new_figure, set_title, styled

COLOURS = ListedColormap(PALETTE)
IN_A_COLUMN = 14  # entries of a legend
GRID = 60  # points to a side, at which a density is drawn
Density = Callable[[Tensor], Tensor]


@styled
def latent_map(
    panels: Mapping[str, Tensor],
    labels: Tensor | None,
    limit: float | None = None,
    legend: str = "label",
    names: Sequence[str] = (),
) -> Figure:
    """Draw points in the plane, [n, 2] for each titled panel, coloured by label.

    Args:
        panels: from title to points.
        labels: integers, [n], -1 where not known; or None for one colour.
        limit: axes from -limit to limit; None fits each panel to its points.
        legend: the title of the legend.
        names: of the labels, in their order; empty shows their numbers.
    """
    known = [] if labels is None else labels.unique().tolist()
    texts = ["not known" if k < 0 else names[k] if names else f"{k}" for k in known]
    columns = math.ceil(len(texts) / IN_A_COLUMN)
    beside = columns * (0.5 + 0.075 * max(map(len, texts), default=0))
    figure = new_figure(4.6 * len(panels) + max(1.0, beside), 4.4)
    for panel, (title, points) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        x, y = points.cpu().numpy().T
        size = 4 if len(points) > 4000 else 12
        colours: dict[str, Any] = (
            {} if labels is None else {"c": labels.cpu(), "cmap": COLOURS.with_extremes(under="0.8")}
        )
        if labels is not None and labels.max() < 10:
            colours |= {"vmin": 0, "vmax": 9}  # a label has the same colour in all figures
        dots = panel.scatter(x, y, s=size, linewidths=0, alpha=0.7, **colours)
        set_title(panel, title, share=0.5)
        panel.set_aspect("equal" if limit else "auto")
        if limit:
            panel.set(xlim=(-limit, limit), ylim=(-limit, limit), xlabel="z[0]", ylabel="z[1]")
        else:
            panel.set(xticks=[], yticks=[])
    if labels is not None:
        handles, _ = dots.legend_elements(num=None)
        figure.legend(handles, texts, loc="outside right center", title=legend, ncols=columns)
    return figure


@styled
def scatter(
    panels: Mapping[str, Mapping[str, Tensor]], sizes: Mapping[str, Mapping[str, Tensor]] | None = None
) -> Figure:
    """Draw points in the plane in named groups, [n, 2] for each group of each titled panel, on shared axes.

    Args:
        panels: from title and group to points.
        sizes: from title and group to the radius of each point in data units, [n]; None draws dots.
    """
    figure = new_figure(5.4 * len(panels), 4.4)
    drawn = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    reach: list[Tensor] = []
    for panel, (title, groups) in zip(drawn, panels.items(), strict=True):
        for number, (name, points) in enumerate(groups.items()):
            x, y = points.cpu().numpy().T
            radius = 0.0 if sizes is None else float(sizes[title][name].max())
            reach = [torch.cat([points.cpu() - radius, points.cpu() + radius]), *reach]
            if sizes is None:
                panel.scatter(x, y, s=5, linewidths=0, alpha=0.6, color=colour_of(number), label=name)
                continue
            radii = sizes[title][name].cpu().numpy()
            discs = EllipseCollection(
                2 * radii, 2 * radii, 0 * radii, units="x", offsets=np.stack([x, y], 1), transOffset=panel.transData
            )
            discs.set(facecolor="none", edgecolor=colour_of(number), alpha=0.5)
            panel.add_collection(discs)
            panel.scatter([], [], color=colour_of(number), label=name)
        panel.set(xlabel="z[0]", ylabel="z[1]", aspect="equal")
        set_title(panel, title, share=0.5)
        group_legend(panel)
    lower, upper = torch.cat(reach).amin(0).tolist(), torch.cat(reach).amax(0).tolist()
    drawn[0].set(xlim=(lower[0], upper[0]), ylim=(lower[1], upper[1]))
    return figure


@styled
def decision_regions(
    panels: Mapping[str, tuple[Tensor, Tensor, Sequence[str]]], points: Tensor, limit: float
) -> Figure:
    """Draw the likeliest value of attributes over the latent plane, its probability as opacity, and data of each value.

    Args:
        panels: from an attribute's name to the probabilities over a square grid, [grid * grid, values], its top row
            first; the value of each point, [n], -1 where missing; and the values' names.
        points: [n, 2].
        limit: the grid reaches from -limit to limit.
    """
    figure = new_figure(5.4 * len(panels), 4.4)
    for panel, (name, (p, values, names)) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        side = math.isqrt(len(p))
        axis = np.linspace(-limit, limit, side)
        heights = p.cpu().numpy().reshape(side, side, -1)[::-1]
        likeliest = heights.argmax(-1)
        shade = to_rgba_array([colour_of(k) for k in range(len(names))])[likeliest]
        shade[..., 3] = 0.4 * heights.max(-1)
        panel.imshow(shade, origin="lower", extent=(-limit, limit, -limit, limit))
        if likeliest.min() < likeliest.max():
            levels = np.arange(len(names) - 1) + 0.5
            panel.contour(axis, axis, likeliest, levels=levels, colors="0.3", linewidths=1.0)
        for k in values[values >= 0].unique().tolist():
            x, y = points[values == k].cpu().numpy().T
            panel.scatter(x, y, s=5, linewidths=0, alpha=0.6, color=colour_of(k), label=names[k])
        panel.set(xlabel="z[0]", ylabel="z[1]")
        set_title(panel, f"likeliest {name} (fainter: less probable), and test data", share=0.5)
        group_legend(panel)
    return figure


@styled
def components(samples: Sequence[Tensor], locs: Tensor, covariances: Tensor, axes: str = "z") -> Figure:
    """Draw Normal components in the plane: samples, and contours at one and two standard deviations.

    Args:
        samples: of each component, [n, 2].
        locs: the means, [components, 2].
        covariances: [components, 2, 2].
        axes: the name of the axes' variable.
    """
    figure = new_figure(6, 5.4)
    panel = figure.subplots()
    circle = torch.linspace(0, 2 * math.pi, 100)
    circle = torch.stack([circle.cos(), circle.sin()])
    for k, (points, loc, covariance) in enumerate(zip(samples, locs, covariances, strict=True)):
        colour = colour_of(k)
        x, y = points.cpu().numpy().T
        panel.scatter(x, y, s=3, linewidths=0, alpha=0.4, color=colour)
        root = torch.linalg.cholesky(covariance.cpu())
        for radius in (1, 2):
            panel.plot(*(loc.cpu()[:, None] + radius * root @ circle.to(root)), color=colour, linewidth=1.2)
        panel.annotate(str(k), loc.tolist(), ha="center", va="center", weight="bold")
    panel.set(xlabel=f"{axes}[0]", ylabel=f"{axes}[1]", title="p(z | y): samples, one and two standard deviations")
    return figure


@styled
def mixture_points(
    data: Tensor, clusters: Tensor, drawn: Tensor, clusters_drawn: Tensor, names: Sequence[str], density: Density | None
) -> Figure:
    """Draw rows of a table and samples of a model in the plane, coloured by cluster, and the density of the model.

    Args:
        data, drawn: rows, [n, 2] and [m, 2].
        clusters, clusters_drawn: inferred of the rows, and of the samples: [n], [m].
        names: of the two axes.
        density: from points [n, 2] to densities [n]; None omits its panel.
    """
    figure = new_figure(4.4 * (3 if density else 2), 4.2)
    panels = figure.subplots(1, 3 if density else 2, sharex=True, sharey=True)
    colours: dict[str, Any] = {"cmap": COLOURS, "vmin": 0, "vmax": 9, "s": 8, "linewidths": 0}
    panels[0].scatter(*data.T, c=clusters % 10, **colours)
    panels[0].set_title("data, by inferred cluster")
    panels[1].scatter(*drawn.T, c=clusters_drawn % 10, **colours)
    panels[1].set_title("samples of the model, by cluster")
    for panel in panels:
        panel.set(xlabel=names[0], ylabel=names[1])
    if density:
        lower, upper = data.amin(0) - 0.5, data.amax(0) + 0.5
        grid = latent_grid(lower, upper, GRID)
        heights = density(grid).reshape(GRID, GRID)
        extent = (float(lower[0]), float(upper[0]), float(lower[1]), float(upper[1]))
        panels[2].imshow(heights.numpy(), extent=extent, cmap="magma_r", aspect="auto", interpolation="bilinear")
        panels[2].scatter(*data.T, s=2, color="black", linewidths=0, alpha=0.3)
        panels[2].set_title("density of the model, and the data")
    return figure


def latent_grid(lower: Tensor, upper: Tensor, steps: int) -> Tensor:
    """Return latents on a grid of the plane in the order of `image_grid`: [steps * steps, 2], top row first."""
    across = torch.linspace(float(lower[0]), float(upper[0]), steps)
    up = torch.linspace(float(lower[1]), float(upper[1]), steps)
    return torch.stack([across.repeat(steps), up.flip(0).repeat_interleave(steps)], dim=-1)


def tsne(points: Tensor, seed: int = 0) -> Tensor:
    """Embed points [n, d] in the plane, [n, 2], by t-SNE (van der Maaten and Hinton, 2008)."""
    from sklearn.manifold import TSNE

    flat = points.flatten(1).double().cpu().numpy()
    perplexity = min(30.0, (len(flat) - 1) / 3)
    start = "pca" if flat.shape[1] > 1 else "random"
    return torch.from_numpy(TSNE(init=start, random_state=seed, perplexity=perplexity).fit_transform(flat))
