"""Learning curves, and the comparison of estimators."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from pyro_models.plots.canvas import new_figure, new_panels


def learning_curves(
    metrics: Sequence[Mapping[str, float]], terms: Mapping[str, str], splits: Sequence[str] = ("train", "test")
) -> Figure:
    """Draw each term over the epochs.

    Args:
        metrics: for each epoch, from `epoch` and `SPLIT_TERM` to numbers.
        terms: from the terms, one panel each, to their units, the pixel mode included.
        splits: the splits to draw in each panel.
    """
    figure, panels = new_panels(len(terms), 3, 4.2, 3.2)
    epochs = [row["epoch"] for row in metrics]
    for panel, (term, unit) in zip(panels, terms.items(), strict=True):
        for split in splits:
            values = [row[f"{split}_{term}"] for row in metrics]
            panel.plot(epochs, values, label=split, marker="." if len(epochs) < 10 else None)
        panel.set(title=term, xlabel="epoch", ylabel=textwrap.fill(unit, 34))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.legend(frameon=False)
    return figure


def lines(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    xlabel: str,
    ylabel: str = "",
    *,
    logarithmic: bool = False,
) -> Figure:
    """Draw labelled curves in panels that share their legend.

    Args:
        panels: by title, the curves by label: the places and the values.
        xlabel, ylabel: of all panels.
        logarithmic: both axes.
    """
    figure, axes = new_panels(len(panels), 3, 4.6, 3.4)
    for panel, (title, curves) in zip(axes, panels.items(), strict=True):
        for label, (places, values) in curves.items():
            panel.plot(places, values, label=label, marker=".")
        panel.set(title=title, xlabel=xlabel, ylabel=textwrap.fill(ylabel, 34))
        if logarithmic:
            panel.set(xscale="log", yscale="log")
    axes[-1].legend(frameon=False)
    return figure


def estimator_comparison(
    bounds: Mapping[str, tuple[float, float]],
    ratios: Mapping[str, Mapping[str, float]],
    times: Mapping[str, float],
    unit: str,
) -> Figure:
    """Draw the bounds, the signal-to-noise ratios and the times of estimators.

    Args:
        bounds: the mean and the standard error of each.
        ratios: the signal-to-noise ratio of the gradient of each, by group of parameters.
        times: milliseconds a step.
        unit: of the bounds.
    """
    figure = new_figure(13, 1.4 + 0.4 * len(bounds))
    panels = figure.subplots(1, 3, sharey=True)
    rows = np.arange(len(bounds))
    means, errors = zip(*bounds.values(), strict=True)
    panels[0].errorbar(means, rows, xerr=errors, fmt="o", capsize=3)
    panels[0].set(title="bound and its standard error", xlabel=unit, yticks=rows, yticklabels=list(bounds))
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
