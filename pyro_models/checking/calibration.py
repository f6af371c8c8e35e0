"""Simulation-based calibration of a guide: are its posteriors where, and as wide as, those of the model?

Talts, Betancourt, Simpson, Vehtari and Gelman, Validating Bayesian inference algorithms with simulation-based
calibration, 2018.
"""

from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor

from pyro_models.checking.replicates import replicate, samples
from pyro_models.metrics.evaluation import Data, Program, eval_mode

BINS = 20


@dataclass(frozen=True)
class Ranks:
    """The ranks of latents drawn from the model among draws from the guide.

    Attributes:
        latent: the name of the number, as z[0].
        values: for each simulated datum how many of the guide's draws lie below, [n].
        draws: how many the guide made for each datum.
    """

    latent: str
    values: Tensor
    draws: int

    @property
    def counts(self) -> list[int]:
        """How many ranks fall into each of 20 parts of their range."""
        return torch.bincount(self.values * BINS // (self.draws + 1), minlength=BINS).tolist()

    @property
    def p(self) -> float:
        """The p-value of the chi-square test that all ranks are equally likely."""
        from scipy.stats import chisquare

        return float(chisquare(self.counts).pvalue)

    @property
    def band(self) -> tuple[float, float]:
        """Where 95 % of the counts lie if all ranks are equally likely."""
        from scipy.stats import binom

        return binom.interval(0.95, len(self.values), 1 / BINS)


def calibrate(model: Program, guide: Program, data: Data, *, draws: int = 99, seed: int = 0) -> list[Ranks]:
    """Rank latents drawn from the model among those that the guide draws given the data that came with them.

    If the guide is the posterior, every rank is as likely as any other (theorem 1 there). Equal values, as of clusters,
    get a random order.

    Args:
        model, guide: the pair.
        data: how many data to simulate, and which are missing (NaN); by site, as the arguments are called.
        draws: of the guide for each datum; one more than it is a multiple of 20.
        seed: of the draws.

    Returns:
        the ranks of each number in each latent site.

    Raises:
        ValueError: a site of the model is not among the arguments; the ranks do not fall into equal bins.
    """
    if (draws + 1) % BINS:
        raise ValueError(f"{draws} draws make {draws + 1} ranks, which do not fall into {BINS} equal parts")
    with eval_mode(model, guide, seed=seed):
        simulated = replicate(model, None, data)
        if not simulated.drawn.keys() <= data.keys():
            raise ValueError(f"the sites {sorted(simulated.drawn)} are not among the arguments {sorted(data)}")
        below, ties = (
            {name: torch.zeros(value.shape).to(value.device) for name, value in simulated.latents.items()} for _ in "bt"
        )
        for _ in range(draws):
            inferred = samples(poutine.trace(guide).get_trace(**{**data, **simulated.drawn}))
            for name, value in simulated.latents.items():
                below[name] += inferred[name]["value"] < value
                ties[name] += inferred[name]["value"] == value
        ranks = {name: (below[name] + torch.rand_like(ties[name]) * (ties[name] + 1)).long().cpu() for name in below}
    return [
        Ranks(f"{name}[{k}]", one, draws)
        for name in ranks
        for k, one in enumerate(ranks[name].reshape(len(ranks[name]), -1).T)
    ]
