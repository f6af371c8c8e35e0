"""The evidence of the observed sites, or of one of them, estimated by importance sampling."""

import math
import warnings
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.stats import fit_generalized_pareto
from torch import Tensor
from tqdm import tqdm

from pyro_models.base.errors import UserError
from pyro_models.metrics.evaluation import Data, eval_mode, in_batches
from pyro_models.objectives import Arguments, Program, arguments, is_of_pyro, log_weights, modules_of, run_pair
from pyro_models.objectives.draws import data_plate, reads_other_rows

DRAWS = 2000  # decoded at a time: more are not faster, and fewer take more calls (benchmarks/likelihood.py --draws)
HIGHEST_K = 0.7  # above it an estimate cannot be trusted (Vehtari et al., Pareto smoothed importance sampling, 2024)
FEWEST = 10  # effective samples, below which the error is no guide either
DOUBTFUL_SHARE = 0.25  # of the data, above which all estimates together come with a warning
SHORTEST_TAIL = 10  # weights to which a tail can be fitted


class UntrustedEstimate(UserWarning):
    """Importance weights are too uneven for their mean to be near its expectation."""


@dataclass(frozen=True)
class Evidence:
    """log p(x) of n data, each estimated from K draws z_k of the guide with the weights w_k = p(x, z_k) / q(z_k | x).

    Attributes:
        log_p: log mean_k w_k, nats: [n], or [1] where the pair has no value for each datum, as latents are shared. Its
            mean is a lower bound of log p(x), tighter with more draws (Burda, Grosse and Salakhutdinov, 2016,
            theorem 1).
        effective: the effective sample size, (sum_k w_k)^2 / sum_k w_k^2, from 1 to K (Kong, 1992): [n].
        samples: K.
        pareto_k: the shape of a generalised Pareto distribution fitted to the largest weights: [n]. Above 0.7 the mean
            of the weights is dominated by a few and the estimate, error included, cannot be trusted (Vehtari, Simpson,
            Gelman, Yao and Gabry, Pareto smoothed importance sampling, 2024). -inf where the weights are equal, NaN
            with fewer than 50 samples.
    """

    log_p: Tensor
    effective: Tensor
    samples: int
    pareto_k: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def error(self) -> Tensor:
        """The standard deviation of `log_p` over other draws, by the delta method, nats: [n]; NaN for a single draw."""
        return ((self.samples / self.effective - 1).clamp(min=0) / (self.samples - 1)).sqrt()

    @property
    def untrusted(self) -> Tensor:
        """Which estimates cannot be trusted, as k is above 0.7 or the effective sample size below 10: [n], bool.

        With fewer than 50 samples neither can be told, and none is marked.
        """
        return (self.effective < FEWEST) & ~self.pareto_k.isnan() | (self.pareto_k > HIGHEST_K)

    @property
    def doubts(self) -> str:
        """What share of the estimates cannot be trusted, in words."""
        return (
            f"{self.untrusted.double().mean():.0%} of {len(self.log_p)} estimates of log p cannot be trusted, as their "
            f"importance weights have a Pareto k above {HIGHEST_K} or fewer than {FEWEST} effective samples of "
            f"{self.samples}: they are lower bounds in expectation"
        )


def evidence(
    model: Program,
    guide: Program,
    data: Arguments,
    *,
    target: str | None = None,
    samples: int = 500,
    seed: int = 0,
    draws: int = DRAWS,
) -> Evidence:
    """Estimate the evidence of each datum by importance sampling, or of all together where latents are shared.

    Discrete latent sites are summed over. With a target, the other observed sites are marginalised: the model is not
    given their data and draws them, which leaves the mean of the weights as it is. The guide is given all data, as its
    draws may depend on anything.

    Args:
        model, guide: the pair.
        data: what both are called with; a site that is marginalised has the name of its argument.
        target: the observed site whose log-density is estimated, or the name that those of its parts begin with, `x` of
            `x_reals` and `x_counts`; None takes all observed sites jointly.
        samples: K, the number of draws for each datum.
        seed: of the noise.
        draws: held in memory at a time, over all data of a batch and for each value of the discrete sites. Data are cut
            into batches where the pair's own plate follows the number of rows.

    Raises:
        UserError: the target is no observed site of the model, or another one is observed that is no argument; or the
            pair has no importance weights, for a reason that is said.

    Warns:
        UntrustedEstimate: more than a quarter of the estimates have too uneven weights.

    >>> from pyro_models.guides import VAEGuide
    >>> from pyro_models import VAE, distributions
    >>> model = VAE(torch.nn.Linear(2, 4), distributions.NormalLikelihood(1.0, 1), 2)
    >>> guide = VAEGuide(torch.nn.Linear(4, 4))
    >>> estimate = evidence(model, guide, {"x": torch.zeros(7, 4)}, samples=10)
    >>> estimate.log_p.shape, estimate.effective.shape, estimate.samples
    (torch.Size([7]), torch.Size([7]), 10)
    """
    args, kwargs = arguments(data)
    with eval_mode(model, guide, seed=seed):
        hidden, size = inspect(model, guide, args, kwargs, target)
        batches = [kwargs] if size else list(in_batches(kwargs, batch_size(samples, draws)))
        parts = [
            importance(model, guide, args, batch, hidden, samples, max(1, draws // (size or rows(batch))))
            for batch in tqdm(batches, disable=None)
        ]
    names = ("log_p", "effective", "pareto_k")
    log_p, effective, k = (torch.cat([getattr(part, name) for part in parts]) for name in names)
    result = Evidence(log_p, effective, samples, k)
    if result.untrusted.double().mean() > DOUBTFUL_SHARE:
        warnings.warn(f"{result.doubts}: draw more `samples`, or train the guide", UntrustedEstimate, stacklevel=2)
    return result


def log_likelihood(
    model: Program,
    guide: Program,
    data: Arguments,
    *,
    target: str | None = None,
    samples: int = 500,
    seed: int = 0,
    draws: int = DRAWS,
) -> Tensor:
    """Return `log_p` of `evidence`, with its arguments: [n], or [1] where latents are shared, nats.

    >>> from pyro_models.guides import VAEGuide
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


def rows(batch: Data) -> int:
    """Return the length of the tensors of a batch."""
    return len(next(iter(batch.values())))


def inspect(
    model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any], target: str | None
) -> tuple[frozenset[str], int]:
    """Return the observed sites that are to be marginalised, and the number of data, or 0 if they are one for each row.

    They are where all arguments are tensors of as many rows, the plate of the data has two elements for two of them,
    and these have the densities that they have among the others: then the data can be cut into batches. Sites of
    `pyro.deterministic` and `pyro.factor` are not marginalised.

    Raises:
        UserError: the target is no observed site of the model, or another one is observed that is no argument.
    """
    lengths = {len(value) if isinstance(value, Tensor) and value.ndim else 0 for value in kwargs.values()}
    in_rows = not args and len(lengths) == 1 and min(lengths) > 2
    if any(map(is_of_pyro, modules_of(model, guide))):  # its parameters are as many as the rows that it sees first
        in_rows = False
    store = pyro.get_param_store()
    known = _parameters_alone(model, guide)

    def part(first: int, last: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {name: value[first:last] for name, value in kwargs.items()}

    if in_rows:
        with store.scope(store.get_state()):
            try:
                p, q = run_pair(model, guide, **part(0, 2)[1])
                in_rows = _parameters_alone(model, guide) == known  # else it makes some, perhaps one for each row
                in_rows = in_rows and not reads_other_rows(model, guide, part, min(max(lengths), DRAWS))
            except Exception:  # it may need all its rows
                in_rows = False
    if not in_rows:
        p, q = run_pair(model, guide, *args, **kwargs)
    plate = data_plate([*p.items(), *q.items()], None)
    in_rows = in_rows and plate is not None and plate.size == plate.full_size == 2
    size = 0 if in_rows else plate.size if plate is not None else 1
    if target is None:
        return frozenset(), size
    observed = {name: site.fn for name, site in p.items() if site.is_observed}
    targets = {target} if target in observed else {name for name in observed if name.startswith(f"{target}_")}
    if not targets:
        raise UserError(f"site {target!r} is not observed: the observed sites are {sorted(observed)}")
    hidden = frozenset(name for name in observed if name not in targets and name in kwargs)
    for name in observed.keys() - hidden - targets:
        fn = observed[name]
        while isinstance(fn, dist.Independent | dist.MaskedDistribution):
            fn = fn.base_dist
        if not isinstance(fn, dist.Delta | dist.Unit):
            raise UserError(f"site {name!r} is observed and is no argument: it cannot be left out of log p({target})")
    return hidden, size


def _parameters_alone(model: Program, guide: Program) -> set[str]:
    """The names of the parameters in Pyro's store that are no module's."""
    owned = {id(parameter) for module in modules_of(model, guide) for parameter in module.parameters()}
    store: Any = pyro.get_param_store()
    return {name for name in store.keys() if id(store[name].unconstrained()) not in owned}  # noqa: SIM118


def importance(
    model: Program,
    guide: Program,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    hidden: frozenset[str],
    samples: int,
    most: int,
) -> Evidence:
    """Estimate the evidence of one batch, `most` samples at a time; the model does not see data of the hidden sites."""
    given = {name: values for name, values in kwargs.items() if name not in hidden}
    guide = partial(guide, **{name: kwargs[name] for name in hidden if name in kwargs}) if hidden else guide
    tail = min(samples // 5, int(3 * samples**0.5))
    total = squares = largest = torch.empty(0)
    for particles in shares(samples, most):
        weights = log_weights(model, guide, *args, particles=particles, hidden=hidden, **given)
        sums = torch.stack([weights.logsumexp(0), (2 * weights).logsumexp(0)])
        total, squares = torch.logaddexp(torch.stack([total, squares]), sums) if len(largest) else sums
        largest = torch.cat([largest, weights]) if len(largest) else weights
        largest = largest.topk(min(tail + 1, len(largest)), 0).values
    k = torch.tensor([pareto_k(column) for column in largest.T.double().cpu()]).to(total)
    return Evidence(total - math.log(samples), (2 * total - squares).exp(), samples, k)


def pareto_k(largest: Tensor) -> float:
    """Return the shape of the tail of importance weights, by the method of Zhang and Stephens, 2009.

    Args:
        largest: the logarithms of the largest weights, in falling order, of which the last is the threshold.

    Returns:
        the shape; -inf where all are equal, NaN where they are fewer than 11.

    >>> round(pareto_k(torch.arange(1.0, 201.0).log().neg().mul(0.9)), 1)  # quantiles of a Pareto tail of shape 0.9
    0.8
    """
    if len(largest) <= SHORTEST_TAIL:
        return math.nan
    excess = (largest[:-1] - largest[0]).exp() - (largest[-1] - largest[0]).exp()
    excess = excess[excess > 1e-9]
    return fit_generalized_pareto(excess)[0] if len(excess) >= SHORTEST_TAIL else -math.inf


def shares(samples: int, most: int) -> list[int]:
    """Divide `samples` into shares of `most`, or of 1 where that is less; the last one is the remainder.

    >>> shares(7, 3)
    [3, 3, 1]
    """
    most = max(1, most)
    return [min(most, samples - done) for done in range(0, samples, most)]
