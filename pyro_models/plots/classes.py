"""Classes: confusion matrices, scores of each class, and draws from the simplex."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from pyro_models.plots.canvas import new_figure, set_title, styled


@styled
def confusion_matrix(
    counts: Tensor, clusters: Sequence[int], labels: Sequence[int | str] | None = None, name: str = "cluster"
) -> Figure:
    """Draw the counts of data of each cluster, or predicted class, and label.

    Args:
        counts: [clusters, labels].
        clusters: the clusters or classes of the rows.
        labels: those of the columns; None numbers them.
        name: of the rows, `cluster` or `class`.
    """
    figure = new_figure(1.6 + 0.45 * counts.shape[1], 1.4 + 0.38 * counts.shape[0])
    panel = figure.subplots()
    shares = counts / counts.sum(0, keepdim=True).clamp(min=1)
    panel.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, label in np.ndindex(*counts.shape):
        if counts[row, label]:
            colour = "white" if shares[row, label] > 0.5 else "black"
            panel.text(label, row, str(int(counts[row, label])), ha="center", va="center", fontsize=7, color=colour)
    panel.set(xticks=range(counts.shape[1]), yticks=range(counts.shape[0]), xlabel="label", ylabel=name)
    panel.set_yticklabels([str(cluster) for cluster in clusters])
    if labels is not None:
        panel.set_xticklabels([str(label) for label in labels])
    set_title(figure, f"test data of each {name} and label")
    return figure


@styled
def class_scores(scores: Mapping[str, Sequence[float]]) -> Figure:
    """Draw scores between 0 and 1 as a table: from the name of a score to a value for each class."""
    table = np.array(list(scores.values()))
    figure = new_figure(1.6 + 0.55 * table.shape[1], 0.9 + 0.45 * len(scores))
    panel = figure.subplots()
    panel.imshow(table, cmap="Blues", vmin=min(0.9, table.min()), vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        dark = value > (1 + min(0.9, table.min())) / 2
        panel.text(
            column, row, f"{value:.3f}", ha="center", va="center", fontsize=8, color="white" if dark else "black"
        )
    panel.set(xticks=range(table.shape[1]), yticks=range(len(scores)), yticklabels=list(scores), xlabel="class")
    set_title(figure, "scores of each class on test data")
    return figure


@styled
def simplex_draws(panels: Mapping[str, Tensor]) -> Figure:
    """Draw samples on the simplex, [n, categories] for each titled panel, as columns, beside their mean."""
    figure = new_figure(9, 1.3 * len(panels))
    grid = figure.subplots(len(panels), 2, squeeze=False, width_ratios=[6, 1], sharey="row")
    for (panel, means), (title, draws) in zip(grid, panels.items(), strict=True):
        categories = range(1, draws.shape[1] + 1)
        extent = (0, len(draws), categories[-1] + 0.5, 0.5)
        panel.imshow(draws.T.numpy(), cmap="gray_r", vmin=0, vmax=1, aspect="auto", extent=extent)
        panel.set(title=title, yticks=categories, xticks=[])
        means.barh(categories, draws.mean(0).numpy(), color="grey")
        means.set(xlim=(0, 1), title="mean")
    return figure
