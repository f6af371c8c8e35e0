"""Predictive checks: do replicated data look like the data, as far as some statistics show?

Box, Sampling and Bayes' inference in scientific modelling and robustness, 1980 (prior predictive); Rubin, 1984, and
Gelman, Meng and Stern, 1996 (posterior predictive).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_models.base.errors import UserError, first_line
from pyro_models.base.markdown import markdown
from pyro_models.base.names import FEWEST_REPLICATES
from pyro_models.checking.replicates import as_drawn, in_parts
from pyro_models.checking.statistics import Statistic
from pyro_models.metrics.evaluation import Data, Program, eval_mode

LEVEL = 0.05


@dataclass(frozen=True)
class Check:
    """A statistic of the data and of their replicates.

    Attributes:
        site: the site of the values that the statistic is computed from.
        statistic: its name.
        observed: its value for the data.
        replicated: its values for the replicates, [replicates], with latents from the `prior` and from the `posterior`.
    """

    site: str
    statistic: str
    observed: float
    replicated: dict[str, Tensor]

    @property
    def against(self) -> dict[str, dict[str, float]]:
        """The comparison with `prior` and with `posterior` replicates: see `p_values`."""
        return {given: p_values(self.observed, values) for given, values in self.replicated.items()}

    def as_json(self) -> dict[str, Any]:
        """Return all but the values of the replicates."""
        return {"site": self.site, "statistic": self.statistic, "observed": self.observed, **self.against}


def p_values(observed: float, replicated: Tensor) -> dict[str, float]:
    """Compare a statistic of the data with those of replicates, [replicates].

    Returns:
        `mean` and `sd` of the replicates; the Bayesian p-value `p`, P(T(replicate) >= T(data)), and its Monte-Carlo
        standard error `error`; `two_sided`, twice the smaller of that and P(T(replicate) <= T(data)), at most 1. The
        data count as one more replicate, so that those of a true model are not below a level more often than it says
        (Davison and Hinkley, Bootstrap Methods and their Application, 1997, equation 4.11).

    >>> p_values(3.0, torch.tensor([1.0, 2.0, 3.0, 4.0]))["p"]
    0.6
    """
    n = len(replicated)
    above, below = ((1 + int(side.sum())) / (1 + n) for side in (replicated >= observed, replicated <= observed))
    beyond = (1 + int((replicated >= observed).sum())) / (2 + n)  # off 0 and 1, where an error would vanish
    return {
        "mean": float(replicated.mean()),
        "sd": float(replicated.std()),
        "p": above,
        "error": (beyond * (1 - beyond) / n) ** 0.5,
        "two_sided": min(1.0, 2 * above, 2 * below),
    }


def check(
    model: Program,
    guide: Program,
    data: Data,
    statistics: Mapping[str, Mapping[str, Statistic]],
    *,
    replicates: int = 100,
    seed: int = 0,
    batch_size: int | None = None,
) -> list[Check]:
    """Compare statistics of data with those of replicates of all of them, prior and posterior predictive.

    Of data that training did not see, the prior predictive p-value of a true model is uniform. The posterior
    predictive one, whose latents come from the same data, lies nearer to one half: it fails less often than 5 %.

    A latent site is checked as well, where statistics name it: the guide's draws given the data against the model's
    (Seth, Murray and Williams, Model criticism in latent space, 2019).

    Args:
        model, guide: the pair, or any other; networks that a function closes over must be in evaluation mode.
        data: what both are called with, [n, *shape] each; grey pixels are drawn black or white where the story's are.
        statistics: by site and name. Where a statistic returns a number for each datum, the mean and the standard
            deviation over the data are compared.
        replicates: how many prior and how many posterior ones; 39 at least, or no check could fail at 5 %.
        seed: of all noise.
        batch_size: data at a time; None takes all at once.

    Raises:
        ValueError: there are too few replicates, or statistics of a site that the pair has not.
        UserError: a statistic fails, or what it returns is of another shape or not finite.

    >>> from guides import VAEGuide
    >>> from pyro_models import VAE, distributions
    >>> model = VAE(torch.nn.Linear(2, 4), distributions.NormalLikelihood(1.0, 1), 2)
    >>> guide = VAEGuide(torch.nn.Linear(4, 4))
    >>> checks = check(model, guide, {"x": torch.randn(30, 4)}, {"x": {"largest": torch.max}}, replicates=39)
    >>> [(check.site, check.statistic, sorted(check.against)) for check in checks]
    [('x', 'largest', ['posterior', 'prior'])]
    """
    if replicates < FEWEST_REPLICATES:
        raise ValueError(f"{replicates} replicates are fewer than {FEWEST_REPLICATES}")
    with eval_mode(model, guide, seed=seed):
        first = in_parts(model, guide, data, batch_size)
        data_values = {name: as_drawn(value, first.drawn[name]) for name, value in first.observed.items()}
        data_values |= first.latents
        if statistics.keys() - data_values.keys():
            raise ValueError(f"statistics of {sorted(statistics)}, and the sites are {sorted(data_values)}")
        rows: dict[str, list[dict[tuple[str, str], float]]] = {"prior": [], "posterior": []}
        for _ in range(replicates):
            prior, posterior = in_parts(model, None, data, batch_size), in_parts(model, guide, data, batch_size)
            rows["prior"].append(measure(statistics, prior.drawn | prior.latents))
            rows["posterior"].append(measure(statistics, posterior.drawn))
        checks = []
        for key, observed in measure(statistics, data_values).items():
            columns = {given: [row[key] for row in rows[given] if key in row] for given in rows}
            replicated = {given: torch.tensor(values).double() for given, values in columns.items() if values}
            checks.append(Check(*key, observed, replicated))
    return checks


def measure(statistics: Mapping[str, Mapping[str, Statistic]], values: Data) -> dict[tuple[str, str], float]:
    """Compute statistics by site and name; of numbers for each datum, [n], the mean and the standard deviation.

    Raises:
        UserError: a statistic fails, or what it returns is of another shape or not finite.

    >>> measure({"x": {"size": torch.abs, "largest": torch.max}}, {"x": torch.tensor([-3.0, 1.0, 2.0])})
    {('x', 'size, mean'): 2.0, ('x', 'size, sd'): 1.0, ('x', 'largest'): 2.0}
    """
    results = {}
    for site, name in [(site, name) for site, each in statistics.items() if site in values for name in each]:
        try:
            result = torch.as_tensor(statistics[site][name](values[site])).double()
        except UserError:
            raise
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"statistic {name!r} of {list(values[site].shape)} fails: {first_line(error)}") from None
        if result.shape not in ((), (len(values[site]),)) or not result.isfinite().all():
            raise UserError(f"statistic {name!r} gives {list(result.shape)}: it must give finite numbers, [n] or one")
        if result.ndim:
            results[site, f"{name}, mean"], results[site, f"{name}, sd"] = float(result.mean()), float(result.std())
        else:
            results[site, name] = float(result)
    return results


def checks_table(checks: Sequence[Check]) -> str:
    """Return checks as a Markdown table: p with its Monte-Carlo error, and a star where the check fails at 5 %."""
    rows = []
    for each in checks:
        row = {"statistic": f"{each.site}: {each.statistic}", "data": f"{each.observed:.4g}"}
        row |= dict.fromkeys(("prior", "prior p", "posterior", "posterior p"), "")
        for given, result in each.against.items():
            row[given] = f"{result['mean']:.4g} ± {result['sd']:.2g}"
            row[f"{given} p"] = f"{result['p']:.2f} ± {result['error']:.2f}" + " *" * (result["two_sided"] <= LEVEL)
        rows.append(row)
    return markdown(rows)
