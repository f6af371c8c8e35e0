"""Results of checks: statistics of replicates, and ranks of latents."""

import textwrap
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyro_models.checking.calibration import Ranks
from pyro_models.checking.predictive import Check
from pyro_models.plots.canvas import new_panels


def checks(checked: Sequence[Check], title: str, most: int = 24) -> Figure:
    """Draw histograms of statistics of prior and posterior replicates, with a line at the data's, lowest p first."""
    chosen = sorted(checked, key=lambda check: min(result["two_sided"] for result in check.against.values()))[:most]
    figure, panels = new_panels(len(chosen), 4, 3.6, 2.6)
    for panel, check in zip(panels, chosen, strict=True):
        every = torch.cat([torch.tensor([check.observed]), *check.replicated.values()])
        edges = torch.linspace(float(every.min()), float(every.max()) + 1e-9, 31).tolist()
        for name, values in check.replicated.items():
            panel.hist(values.tolist(), edges, alpha=0.6, label=f"{name}, p = {check.against[name]['p']:.2f}")
        panel.axvline(check.observed, color="black", linewidth=2, label="data")
        panel.set_title(textwrap.fill(f"{check.site}: {check.statistic}", 42), fontsize=9)
        panel.set(yticks=[])
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.legend(frameon=False, fontsize=7)
    figure.suptitle(title + (f"; the {most} least likely of {len(checked)} statistics" if len(checked) > most else ""))
    return figure


def ranks(results: Sequence[Ranks], most: int = 24) -> Figure:
    """Draw rank histograms of each latent, lowest p first, over the band expected of uniform ranks (grey)."""
    chosen = sorted(results, key=lambda result: result.p)[:most]
    figure, panels = new_panels(len(chosen), 6, 2.2, 1.9)
    for panel, result in zip(panels, chosen, strict=True):
        panel.bar(range(len(result.counts)), result.counts, width=1.0)
        panel.axhspan(*result.band, color="grey", alpha=0.4)
        panel.set_title(f"{result.latent}, p = {result.p:.2g}", fontsize=9)
        panel.set(xticks=[], yticks=[])
    figure.suptitle(f"ranks of latents from the prior among {results[0].draws} posterior draws")
    return figure
