"""Results of checks: statistics of replicates, and ranks of latents."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyro_models.checking.calibration import Ranks
from pyro_models.checking.predictive import Check
from pyro_models.plots.canvas import PALETTE, new_panels, set_title, styled


@styled
def checks(checked: Sequence[Check], title: str, most: int = 24) -> Figure:
    """Draw histograms of statistics of prior and posterior replicates, with a line at the data's, lowest p first."""
    chosen = sorted(checked, key=lambda check: min((r["two_sided"] for r in check.against.values()), default=2.0))[
        :most
    ]
    figure, panels = new_panels(len(chosen), 4, 3.6, 2.6)
    for panel, check in zip(panels, chosen, strict=True):
        shift = 0.0 if check.realised is None else check.realised  # of a discrepancy the difference from the data's
        observed = check.observed if check.realised is None else 0.0
        drawn = {name: values - shift for name, values in check.replicated.items()}
        every = torch.cat([torch.tensor([observed]).double(), *drawn.values()])
        edges = torch.linspace(float(every.min()), float(every.max()) + 1e-9, 31).tolist()
        for name, values in drawn.items():
            colour = PALETTE[("prior", "posterior").index(name)]
            label = f"{name}, p = {check.against[name]['p']:.2f}"
            counts = np.histogram(values.numpy(), edges)[0]  # one outline: thirty bars would take most of the time
            panel.stairs(counts, edges, fill=True, alpha=0.6, color=colour, label=label)
        panel.axvline(observed, color="black", linewidth=2, label="data")
        title_of = f"{check.site}: {check.statistic}" + (", less the data's" if check.realised is not None else "")
        set_title(panel, title_of)
        panel.set(yticks=[])
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.legend(fontsize=7)
    set_title(
        figure, title + (f"; the {most} least likely of {len(checked)} statistics" if len(checked) > most else "")
    )
    return figure


@styled
def ranks(results: Sequence[Ranks], most: int = 24) -> Figure:
    """Draw how far the distribution of each latent's ranks is from uniform, lowest p first, with its 95 % band (grey).

    All above 0, the guide's draws are too high, all below too low; a line that rises first and then falls below 0 is of
    a guide that is too narrow, one that falls first of one that is too wide.
    """
    chosen = sorted(results, key=lambda result: result.p)[:most]
    figure, panels = new_panels(len(chosen), 6, 2.3, 1.9)
    for panel, result in zip(panels, chosen, strict=True):
        position = np.arange(1, result.draws + 2) / (result.draws + 1)
        low, high = result.band
        difference = result.ecdf_difference
        panel.fill_between(position, low, high, step="post", color="grey", alpha=0.4, linewidth=0)
        outside = bool(((difference < low) | (difference > high)).any())
        panel.step(position, difference, where="post", color=PALETTE[1] if outside else PALETTE[0])
        set_title(panel, f"{result.latent}, p = {result.p:.2g}")
        panel.set(xticks=[0, 1])
        panel.yaxis.set_major_locator(MaxNLocator(3, symmetric=True))
    set_title(
        figure,
        f"ECDF of the ranks of latents from the prior among {results[0].draws} posterior draws, less the uniform's",
    )
    return figure
