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
    """A statistic of prior and posterior replicates in each panel, and a line at the data's; the least likely first."""
    chosen = sorted(checked, key=lambda one: min(result["two_sided"] for result in one.against.values()))[:most]
    figure, panels = new_panels(len(chosen), 4, 3.6, 2.6)
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
    figure, panels = new_panels(len(chosen), 6, 2.2, 1.9)
    for panel, one in zip(panels, chosen, strict=True):
        panel.bar(range(len(one.counts)), one.counts, width=1.0)
        panel.axhspan(*one.band, color="grey", alpha=0.4)
        panel.set_title(f"{one.latent}, p = {one.p:.2g}", fontsize=9)
        panel.set(xticks=[], yticks=[])
    figure.suptitle(f"ranks of the story's latents among {found[0].draws} draws of the guide")
    return figure
