"""Learning curves, and the comparison of estimators."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from pyro_models.plots.canvas import STYLE, new_figure, new_panels, set_title, styled, wrapped


@styled
def learning_curves(
    metrics: Sequence[Mapping[str, float]], terms: Mapping[str, str], splits: Sequence[str] | None = None
) -> Figure:
    """Draw each term over the epochs.

    Args:
        metrics: for each epoch, from `epoch` and `SPLIT_TERM` to numbers; some epochs may lack some.
        terms: from the terms, one panel each, to their units, the pixel mode included.
        splits: the splits to draw in each panel; None draws those of train, validation and test that there are.
    """
    figure, panels = new_panels(len(terms), 3, 3.6, 2.7)
    shared, names = len(set(terms.values())) == 1 and len(terms) > 1, {name for row in metrics for name in row}
    for panel, (term, unit) in zip(panels, terms.items(), strict=True):
        for split in splits or [each for each in ("train", "validation", "test") if f"{each}_{term}" in names]:
            name = f"{split}_{term}"
            epochs, values = zip(*((row["epoch"], row[name]) for row in metrics if name in row), strict=True)
            panel.plot(epochs, values, label=split, marker="." if len(epochs) < 10 else None)
        panel.set(xlabel="epoch", ylabel="" if shared else wrapped(unit, 2.1, STYLE["axes.labelsize"]))
        set_title(panel, term)
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        panel.legend()
    if shared:
        set_title(figure, next(iter(terms.values())))
    return figure


@styled
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
        panel.set(xlabel=xlabel, ylabel=wrapped(ylabel, 2.6, STYLE["axes.labelsize"]))
        set_title(panel, title)
        if logarithmic:
            panel.set(xscale="log", yscale="log")
    axes[-1].legend()
    return figure


@styled
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
    figure = new_figure(11, 1.4 + 0.4 * len(bounds))
    panels = figure.subplots(1, 3, sharey=True)
    rows = np.arange(len(bounds))
    means, errors = zip(*bounds.values(), strict=True)
    panels[0].errorbar(means, rows, xerr=errors, fmt="o", capsize=3)
    panels[0].set(title="bound and its standard error", yticks=rows, yticklabels=list(bounds))
    panels[0].set_xlabel(wrapped(unit, 2.6, STYLE["axes.labelsize"]))
    panels[0].xaxis.set_major_locator(MaxNLocator(3))
    panels[0].ticklabel_format(axis="x", useOffset=False)
    for group in next(iter(ratios.values())):
        panels[1].plot([each[group] for each in ratios.values()], rows, "o", label=group, alpha=0.8)
    panels[1].set(title="signal / noise of the gradient", xscale="log")
    panels[1].xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    panels[1].xaxis.set_major_formatter("{x:g}")
    panels[1].xaxis.set_minor_formatter(NullFormatter())
    panels[1].legend()
    panels[2].barh(rows, list(times.values()), color="grey")
    panels[2].set(title="one step", xlabel="ms")
    panels[0].invert_yaxis()
    return figure
