"""The evidence log p(x) of a target site x, estimated by importance sampling."""

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor
from tqdm import tqdm

from pyro_models.metrics.evaluation import Data, Program, eval_mode, in_batches
from pyro_models.objectives import Record, log_weights

DRAWS = 2000  # decoded at a time: more are not faster, and fewer take more calls (benchmarks/likelihood.py --draws)


@dataclass(frozen=True)
class Evidence:
    """log p(x) of n data, each estimated from K draws z_k of the guide with the weights w_k = p(x, z_k) / q(z_k | x).

    Attributes:
        log_p: log mean_k w_k, nats: [n]. Its mean is a lower bound of log p(x), tighter with more draws (Burda, Grosse
            and Salakhutdinov, 2016, theorem 1).
        effective: the effective sample size, (sum_k w_k)^2 / sum_k w_k^2, from 1 to K (Kong, 1992): [n].
        samples: K.
    """

    log_p: Tensor
    effective: Tensor
    samples: int

    @property
    def error(self) -> Tensor:
        """The standard deviation of `log_p` over other draws, by the delta method, nats: [n]; NaN for a single draw."""
        return ((self.samples / self.effective - 1).clamp(min=0) / (self.samples - 1)).sqrt()


def evidence(
    model: Program,
    guide: Program,
    data: Data,
    *,
    target: str = "x",
    samples: int = 500,
    seed: int = 0,
    draws: int = DRAWS,
) -> Evidence:
    """Estimate the evidence of each datum by importance sampling.

    Discrete latent sites are summed over. Observed sites other than the target are marginalised: the model is not given
    their data and draws them, which leaves the mean of the weights as it is. The guide is given all data, as its draws
    may depend on anything.

    Args:
        model, guide: the pair.
        data: what both are called with, [n, *shape] each; a site that is marginalised has the name of its argument.
        target: the observed site whose log-density is estimated.
        samples: K, the number of draws for each datum.
        seed: of the noise.
        draws: held in memory at a time, over all data of a batch and for each value of the discrete sites.

    Raises:
        ValueError: the target is no observed site of the model, or another one is observed that is no argument.

    >>> from guides import VAEGuide
    >>> from pyro_models import VAE, distributions
    >>> model = VAE(torch.nn.Linear(2, 4), distributions.NormalLikelihood(1.0, 1), 2)
    >>> guide = VAEGuide(torch.nn.Linear(4, 4))
    >>> estimate = evidence(model, guide, {"x": torch.zeros(7, 4)}, samples=10)
    >>> estimate.log_p.shape, estimate.effective.shape, estimate.samples
    (torch.Size([7]), torch.Size([7]), 10)
    """
    with eval_mode(model, guide, seed=seed):
        hidden = other_sites(model, data, target)
        parts = [
            importance(model, guide, batch, hidden, samples, draws)
            for batch in tqdm(list(in_batches(data, batch_size(samples, draws))), disable=None)
        ]
    return Evidence(torch.cat([part.log_p for part in parts]), torch.cat([part.effective for part in parts]), samples)


def log_likelihood(
    model: Program,
    guide: Program,
    data: Data,
    *,
    target: str = "x",
    samples: int = 500,
    seed: int = 0,
    draws: int = DRAWS,
) -> Tensor:
    """Return `log_p` of `evidence`, with its arguments: [n], nats.

    >>> from guides import VAEGuide
    >>> from pyro_models import VAE, distributions
    >>> model = VAE(torch.nn.Linear(2, 4), distributions.NormalLikelihood(1.0, 1), 2)
    >>> guide = VAEGuide(torch.nn.Linear(4, 4))
    >>> log_likelihood(model, guide, {"x": torch.zeros(7, 4)}, samples=10).shape
    torch.Size([7])
    """
    return evidence(model, guide, data, target=target, samples=samples, seed=seed, draws=draws).log_p


def batch_size(samples: int, draws: int) -> int:
    """Return how many data make `draws`, if each takes up to 100 of its samples at a time."""
    return max(1, draws // min(samples, 100))


def other_sites(model: Program, data: Data, target: str) -> frozenset[str]:
    """Return the names of the model's observed sites other than the target, which are to be marginalised.

    Sites of `pyro.deterministic` and `pyro.factor` are not among them.

    Raises:
        ValueError: the target is no observed site of the model, or another one is observed that is no argument.
    """
    with torch.random.fork_rng(), Record() as p:
        model(**{name: values[:1] for name, values in data.items()})
    observed = {name: site.fn for name, site in p.sites.items() if site.is_observed}
    if target not in observed:
        raise ValueError(f"site {target!r} is not observed: the observed sites are {sorted(observed)}")
    hidden = frozenset(name for name in observed if name != target and name in data)
    for name in observed.keys() - hidden - {target}:
        fn = observed[name]
        while isinstance(fn, dist.Independent | dist.MaskedDistribution):
            fn = fn.base_dist
        if not isinstance(fn, dist.Delta | dist.Unit):
            raise ValueError(f"site {name!r} is observed and is no argument: it cannot be left out of log p({target})")
    return hidden


def importance(
    model: Program, guide: Program, batch: Data, hidden: frozenset[str], samples: int, draws: int
) -> Evidence:
    """Estimate the evidence of one batch, `draws` at a time; the model is not given the data of the hidden sites."""
    size = len(next(iter(batch.values())))
    given = {name: values for name, values in batch.items() if name not in hidden}
    total = squares = torch.full((size,), -math.inf, device=next(iter(batch.values())).device)
    for particles in shares(samples, draws // size):
        weights = log_weights(model, lambda **_: guide(**batch), particles=particles, hidden=hidden, **given)
        total = torch.logaddexp(total, weights.logsumexp(0))
        squares = torch.logaddexp(squares, (2 * weights).logsumexp(0))
    return Evidence(total - math.log(samples), (2 * total - squares).exp(), samples)


def shares(samples: int, most: int) -> list[int]:
    """Divide `samples` into shares of `most`, or of 1 where that is less; the last one is the remainder.

    >>> shares(7, 3)
    [3, 3, 1]
    """
    most = max(1, most)
    return [min(most, samples - done) for done in range(0, samples, most)]
