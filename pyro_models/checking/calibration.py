"""Simulation-based calibration of a guide: do its posteriors have the location and the width of the model's?

Talts, Betancourt, Simpson, Vehtari and Gelman, Validating Bayesian inference algorithms with simulation-based
calibration, 2018.
"""

from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor

from pyro_models.checking.replicates import replicate
from pyro_models.metrics.evaluation import Data, Program, eval_mode

BINS = 20


@dataclass(frozen=True)
class Ranks:
    """The ranks of latents drawn from the model among draws from the guide.

    Attributes:
        latent: the name of one dimension of a latent site, as z[0].
        values: for each simulated datum, how many of the guide's draws lie below the latent's value, [n].
        draws: how many draws the guide made for each datum.
    """

    latent: str
    values: Tensor
    draws: int

    @property
    def counts(self) -> list[int]:
        """The number of ranks in each of 20 equal parts of their range."""
        return torch.bincount(self.values * BINS // (self.draws + 1), minlength=BINS).tolist()

    @property
    def p(self) -> float:
        """The p-value of the chi-square test that all ranks are equally likely."""
        from scipy.stats import chisquare

        return float(chisquare(self.counts).pvalue)

    @property
    def band(self) -> tuple[float, float]:
        """The interval that holds 95 % of the counts if all ranks are equally likely."""
        from scipy.stats import binom

        return binom.interval(0.95, len(self.values), 1 / BINS)


def calibrate(model: Program, guide: Program, data: Data, *, draws: int = 99, seed: int = 0) -> list[Ranks]:
    """Rank latents drawn from the model among those that the guide draws given the data that came with them.

    If the guide is the posterior, all ranks are equally likely (theorem 1 of the article). Equal values, as of
    clusters, get a random order.

    Args:
        model, guide: the pair.
        data: tensors [n, *shape] by site: n data are simulated, missing where these are NaN.
        draws: of the guide for each datum; 20 must divide draws + 1.
        seed: of the draws.

    Returns:
        the ranks of each dimension of each latent site.

    Raises:
        ValueError: a site of the model is not among the arguments, or the ranks do not fall into equal bins.

    >>> from guides import VAEGuide
    >>> from pyro_models import VAE, distributions
    >>> model = VAE(torch.nn.Linear(2, 4), distributions.NormalLikelihood(1.0, 1), 2)
    >>> ranks = calibrate(model, VAEGuide(torch.nn.Linear(4, 4)), {"x": torch.zeros(100, 4)}, draws=19)
    >>> [(each.latent, sum(each.counts)) for each in ranks]
    [('z[0]', 100), ('z[1]', 100)]
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
            inferred = poutine.trace(guide).get_trace(**{**data, **simulated.drawn}).nodes
            for name, value in simulated.latents.items():
                below[name] += inferred[name]["value"] < value
                ties[name] += inferred[name]["value"] == value
        ranks = {name: (below[name] + torch.rand_like(ties[name]) * (ties[name] + 1)).long().cpu() for name in below}
    return [
        Ranks(f"{name}[{k}]", values, draws)
        for name in ranks
        for k, values in enumerate(ranks[name].reshape(len(ranks[name]), -1).T)
    ]
