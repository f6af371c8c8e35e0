"""Classes: confusion matrices, scores of each class, and draws from the simplex."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from pyro_models.plots.canvas import new_figure


def confusion_matrix(counts: Tensor, inferred: Sequence[int], labels: Sequence[int] | None = None) -> Figure:
    """Counts of data by inferred y and label, [inferred, labels], with the values of the rows and of the columns."""
    figure = new_figure(1.6 + 0.45 * counts.shape[1], 1.4 + 0.38 * counts.shape[0])
    panel = figure.subplots()
    shares = counts / counts.sum(0, keepdim=True).clamp(min=1)
    panel.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, label in np.ndindex(*counts.shape):
        if counts[row, label]:
            colour = "white" if shares[row, label] > 0.5 else "black"
            panel.text(label, row, str(int(counts[row, label])), ha="center", va="center", fontsize=7, color=colour)
    panel.set(xticks=range(counts.shape[1]), yticks=range(counts.shape[0]), xlabel="label", ylabel="inferred y")
    panel.set_yticklabels([str(value) for value in inferred])
    if labels is not None:
        panel.set_xticklabels([str(label) for label in labels])
    panel.set_title("test data by inferred y and label")
    return figure


def class_scores(of: Mapping[str, Sequence[float]]) -> Figure:
    """Scores between 0 and 1 of each class, a row a score: from its name to a value a class."""
    table = np.array(list(of.values()))
    figure = new_figure(1.6 + 0.55 * table.shape[1], 0.9 + 0.45 * len(of))
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


def simplex_draws(panels: Mapping[str, Tensor]) -> Figure:
    """Draws from the simplex over the faces of a die, [n, faces] for each titled panel: each roll a column."""
    figure = new_figure(9, 1.3 * len(panels))
    grid = figure.subplots(len(panels), 2, squeeze=False, width_ratios=[6, 1], sharey="row")
    for (panel, means), (title, draws) in zip(grid, panels.items(), strict=True):
        faces = range(1, draws.shape[1] + 1)
        extent = (0, len(draws), faces[-1] + 0.5, 0.5)
        panel.imshow(draws.T, cmap="gray_r", vmin=0, vmax=1, aspect="auto", extent=extent)
        panel.set(title=title, yticks=faces, xticks=[])
        means.barh(faces, draws.mean(0), color="grey")
        means.set(xlim=(0, 1), title="mean")
    return figure
