"""Predictive checks: do replicated data look like the data, as far as some statistics show?

Box, Sampling and Bayes' inference in scientific modelling and robustness, 1980 (prior predictive); Rubin, 1984, and
Gelman, Meng and Stern, Posterior predictive assessment of model fitness via realized discrepancies, 1996.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyro_models.base.errors import UserError, first_line
from pyro_models.base.markdown import markdown
from pyro_models.base.names import FEWEST_REPLICATES
from pyro_models.checking.replicates import Guide, Replicate, as_drawn, batches, concatenated, replicate
from pyro_models.checking.statistics import Statistic
from pyro_models.metrics.evaluation import eval_mode
from pyro_models.objectives import Arguments, Program

LEVEL = 0.05


Statistics = Mapping[str, Mapping[str, Statistic]]
"""By site and name."""
Samples = Mapping[str, Tensor]
"""Draws of all latent sites by name, [draws, *shape] each: what `MCMC.get_samples` and `Predictive` return."""


@dataclass(frozen=True)
class Check:
    """A statistic of the data and of their replicates.

    Attributes:
        site: the site of the values that the statistic is computed from.
        statistic: its name.
        observed: its value for the data; of a discrepancy, which depends on latents, the mean over their draws.
        replicated: its values for the replicates, [replicates], with latents from the `prior` and from the `posterior`;
            those that are not finite are left out.
        realised: of a discrepancy, its value for the data at the latents of each of these replicates, [replicates].
        undefined: how many replicates are left out, by `prior` and `posterior`; where there are any.
        notes: by the same, why replicates are missing, one or all.
    """

    site: str
    statistic: str
    observed: float
    replicated: dict[str, Tensor]
    realised: Tensor | None = None
    undefined: dict[str, int] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def against(self) -> dict[str, dict[str, float]]:
        """The comparison with `prior` and with `posterior` replicates: see `p_values`."""
        observed = self.observed if self.realised is None else self.realised
        return {given: p_values(observed, values) for given, values in self.replicated.items()}

    def as_json(self) -> dict[str, Any]:
        """Return all but the values of the replicates."""
        written = {"site": self.site, "statistic": self.statistic, "observed": self.observed, **self.against}
        return written | {name: getattr(self, name) for name in ("undefined", "notes") if getattr(self, name)}


def p_values(observed: float | Tensor, replicated: Tensor) -> dict[str, float]:
    """Compare a statistic of the data, one or [replicates], with those of replicates, [replicates].

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
        "sd": float(replicated.std()) if n > 1 else 0.0,
        "p": above,
        "error": (beyond * (1 - beyond) / n) ** 0.5,
        "two_sided": min(1.0, 2 * above, 2 * below),
    }


def check(
    model: Program,
    guide: Program | Samples | None,
    data: Arguments,
    statistics: Statistics,
    *,
    replicates: int = 100,
    seed: int = 0,
    batch_size: int | None = None,
    prior: bool = True,
) -> list[Check]:
    """Compare statistics of data with those of replicates of all of them, prior and posterior predictive.

    Of data that training did not see, the prior predictive p-value of a true model is uniform. The posterior
    predictive one, whose latents come from the same data, lies nearer to one half: it fails less often than 5 %.

    A latent site is checked as well, where statistics name it: the guide's draws given the data against the model's
    (Seth, Murray and Williams, Model criticism in latent space, 2019).

    What a prior replicate lacks is counted and noted in each `Check`, and ends nothing: a statistic that is not finite,
    an error, or all of them where the prior cannot be drawn from (an improper one, a `pyro.factor`). Where a plate
    subsamples, one subsample is drawn and checked.

    Args:
        model, guide: the pair, or any other; in place of the guide draws of all latents by site, [draws, *shape] each,
            as an MCMC's, of which `replicates` are used at equal distances; None leaves posterior replicates out.
        data: what both are called with: a mapping of keyword arguments, a tuple of positional ones, or the only one;
            grey pixels are drawn black or white where the story's are.
        statistics: by site and name; integers reach them as floating point. Where a statistic returns a number for each
            datum, the mean and the standard deviation over the data are compared. One that has two arguments is a
            discrepancy, which gets the latents and deterministic sites beside the values, and compares data and
            replicate at each posterior draw.
        replicates: how many prior and how many posterior ones; 39 at least, or no check could fail at 5 %.
        seed: of all noise.
        batch_size: data at a time; None takes all at once, as models need whose data share a latent.
        prior: whether there are prior replicates.

    Raises:
        ValueError: there are too few replicates, or statistics of a site that the pair has not.
        UserError: a statistic fails on the data, or what it returns is of another shape or not finite; a posterior
            replicate cannot be drawn; the data cannot be cut into batches.

    >>> from pyro_models.guides import VAEGuide
    >>> from pyro_models import VAE, distributions
    >>> model = VAE(torch.nn.Linear(2, 4), distributions.NormalLikelihood(1.0, 1), 2)
    >>> guide = VAEGuide(torch.nn.Linear(4, 4))
    >>> checks = check(model, guide, {"x": torch.randn(30, 4)}, {"x": {"largest": torch.max}}, replicates=39)
    >>> [(check.site, check.statistic, sorted(check.against)) for check in checks]
    [('x', 'largest', ['posterior', 'prior'])]
    """
    if replicates < FEWEST_REPLICATES:
        raise ValueError(f"{replicates} replicates are fewer than {FEWEST_REPLICATES}")
    if guide is None and not prior:
        raise UserError("no replicates: give a guide, or leave `prior=False` out")
    with eval_mode(model, *([guide] if callable(guide) else []), seed=seed):
        parts, fixed = batches(model, guide, data, batch_size), dict[str, Tensor]()

        def draw(given: Guide) -> Replicate:
            return concatenated([replicate(model, given, part, subsamples=fixed) for part in parts])

        halves = {"prior": _Half("prior", replicates, lambda number: draw(None))} if prior else {}
        if guide is not None:
            draws = thinned(guide, replicates) if isinstance(guide, Mapping) else [guide] * replicates
            halves["posterior"] = _Half("posterior", replicates, lambda number: draw(draws[number]))
        source = halves["prior" if guide is None else "posterior"]
        first, second = source.first(), source.first()
        fixed |= first.subsamples
        latents = {} if guide is None else first.latents
        data_values = {name: as_drawn(value, first.drawn[name]) for name, value in first.observed.items()} | latents
        if unknown := statistics.keys() - data_values.keys():
            raise UserError(f"statistics of {sorted(unknown)}, and the sites are {sorted(data_values)}")
        varying = {name for name in first.observed if not first.subsamples and _differ(first, second, name)}
        of_draws = {
            site: {name: each for name, each in named.items() if site in varying or takes_latents(each)}
            for site, named in statistics.items()
        }
        of_data = {
            site: {name: each for name, each in named.items() if name not in of_draws[site]}
            for site, named in statistics.items()
        }
        if guide is None and any(of_draws.values()):
            raise UserError("a statistic of latents needs a guide: prior replicates have no latents of the data")
        realised = []
        for number in range(replicates):
            if "prior" in halves and (replicated := halves["prior"].attempt(number)):
                halves["prior"].measure(of_data, replicated.drawn | replicated.latents)
            if "posterior" in halves and (replicated := halves["posterior"].attempt(number)):
                theta = replicated.latents | replicated.deterministic
                halves["posterior"].measure(statistics, replicated.drawn, theta)
                values = data_values | {name: replicated.observed[name] for name in varying}
                realised.append(measure(of_draws, values, theta))
        observed = measure(statistics, data_values, latents | first.deterministic)
    return [
        _compared(key, value, halves, [row[key] for row in realised if key in row]) for key, value in observed.items()
    ]


class _Half:
    """The replicates of one half, as far as they can be drawn and measured.

    Attributes:
        rows: the statistics of each replicate.
        notes: why replicates are missing: the first reason, of a statistic or of all (None).
    """

    def __init__(self, given: str, replicates: int, draw: Callable[[int], Replicate]):
        self.given, self.replicates, self.draw = given, replicates, draw
        self.rows: list[dict[tuple[str, str], float]] = []
        self.notes: dict[tuple[str, str] | None, str] = {}
        self.refused = False

    def first(self) -> Replicate:
        """Return the first replicate that can be drawn."""
        for _ in range(self.replicates):
            if replicated := self.attempt(0):
                return replicated
        raise UserError(f"no {self.given} replicates: {self.notes[None]}")

    def attempt(self, number: int) -> Replicate | None:
        """Draw a replicate; None where that fails, which only a prior replicate may."""
        if self.refused:
            return None
        try:
            return self.draw(number)
        except UserError as error:
            if self.given == "posterior":
                raise
            self.refused = True
            self.notes[None] = str(error)
        except Exception as error:  # of the program, at values that it has never been run with
            if self.given == "posterior":
                raise UserError(f"a posterior replicate fails: {first_line(error)}") from error
            self.notes.setdefault(None, f"{type(error).__name__}: {first_line(error)}")
        return None

    def measure(
        self, statistics: Statistics, values: Mapping[str, Tensor], latents: Mapping[str, Tensor] | None = None
    ) -> None:
        """Add the statistics of a replicate."""
        failures: dict[tuple[str, str], str] = {}
        self.rows.append(measure(statistics, values, latents, failures=failures))
        for key, reason in failures.items():
            self.notes.setdefault(key, reason)


def thinned(samples: Samples, replicates: int) -> list[dict[str, Tensor]]:
    """Return draws of all sites at equal distances."""
    if len(lengths := {len(values) for values in samples.values()}) != 1:
        raise UserError(
            f"the sites of the samples have {sorted(lengths)} draws: give each as many, along its first dimension"
        )
    (count,) = lengths
    if count < replicates:
        raise UserError(f"{count} draws of the latents are too few for `replicates={replicates}`")
    numbers = torch.linspace(0, count - 1, replicates).round().long().tolist()
    return [{name: values[number] for name, values in samples.items()} for number in numbers]


def _differ(first: Replicate, second: Replicate, site: str) -> bool:
    a, b = (each.observed[site] for each in (first, second))
    return a.shape != b.shape or not torch.allclose(a.double(), b.double(), 0.0, 0.0, equal_nan=True)


def takes_latents(statistic: Statistic) -> bool:
    """Return whether a statistic has two arguments without a default: the values, and the latents by site.

    >>> takes_latents(lambda y, latents: (y - latents["loc"]).abs().max()), takes_latents(torch.max)
    (True, False)
    """
    try:
        parameters = inspect.signature(statistic).parameters.values()
    except (TypeError, ValueError):  # of a function in C
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in positional and each.default is inspect.Parameter.empty for each in parameters) == 2


def _compared(key: tuple[str, str], observed: float, halves: Mapping[str, _Half], realised: list[float]) -> Check:
    """Return the comparison of a statistic, of the replicates where it is finite."""
    replicated, undefined, notes = {}, {}, {}
    of_draws = torch.tensor(realised).double() if realised else None
    for given, half in halves.items():
        if realised and given == "prior":
            continue
        values = torch.tensor([row.get(key, torch.nan) for row in half.rows]).double()
        finite = values.isfinite()
        if given == "posterior" and of_draws is not None:
            finite &= of_draws.isfinite()
            of_draws = of_draws[finite]
        if finite.any():
            replicated[given] = values[finite]
        if missing := half.replicates - int(finite.sum()):
            reason = half.notes.get(key, half.notes.get(None, "it is not finite"))
            undefined[given] = missing
            notes[given] = f"{missing} of {half.replicates} {given} replicates have no value: {reason}"
    if of_draws is not None and len(of_draws):
        observed = float(of_draws.mean())
    return Check(*key, observed, replicated, of_draws, undefined, notes)


def measure(
    statistics: Statistics,
    values: Mapping[str, Tensor],
    latents: Mapping[str, Tensor] | None = None,
    *,
    failures: dict[tuple[str, str], str] | None = None,
) -> dict[tuple[str, str], float]:
    """Compute statistics by site and name; of numbers for each datum, [n], the mean and the standard deviation.

    Args:
        statistics: by site and name.
        values: of the sites; statistics of others are left out.
        latents: what a discrepancy gets beside the values.
        failures: where to write down by site and name what fails, which has no result then; None raises it.

    Raises:
        UserError: a statistic fails, or what it returns is of another shape or not finite.

    >>> measure({"x": {"size": torch.abs, "largest": torch.max}}, {"x": torch.tensor([-3.0, 1.0, 2.0])})
    {('x', 'size, mean'): 2.0, ('x', 'size, sd'): 1.0, ('x', 'largest'): 2.0}
    """
    results = {}
    for site, name in [(site, name) for site, each in statistics.items() if site in values for name in each]:
        try:
            result = _measured(name, statistics[site][name], values[site], latents or {})
        except UserError as error:
            if failures is None:
                raise
            failures |= {(site, f"{name}{part}"): str(error) for part in ("", ", mean", ", sd")}
            continue
        if result.ndim:
            results[site, f"{name}, mean"] = float(result.mean())
            results[site, f"{name}, sd"] = float(result.std()) if len(result) > 1 else 0.0
        else:
            results[site, name] = float(result)
    return results


def _measured(name: str, statistic: Statistic, values: Tensor, latents: Mapping[str, Tensor]) -> Tensor:
    values = values if values.is_floating_point() else values.to(torch.get_default_dtype())
    try:
        result = torch.as_tensor(statistic(values, latents) if takes_latents(statistic) else statistic(values)).double()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"statistic {name!r} of {list(values.shape)} fails: {first_line(error)}") from error
    if result.shape not in ((), values.shape[:1]):
        raise UserError(f"statistic {name!r} gives {list(result.shape)}: it must give finite numbers, [n] or one")
    if not result.isfinite().all():
        raise UserError(f"statistic {name!r} gives {list(result.shape)}, not all finite: it must give finite numbers")
    return result


def checks_table(checks: Sequence[Check]) -> str:
    """Return checks as a Markdown table: p with its Monte-Carlo error, and a star where the check fails at 5 %.

    Below it stands why replicates are missing, where some are.
    """
    rows = []
    for each in checks:
        row = {"statistic": f"{each.site}: {each.statistic}", "data": f"{each.observed:.4g}"}
        row |= dict.fromkeys(("prior", "prior p", "posterior", "posterior p"), "")
        for given, result in each.against.items():
            row[given] = f"{result['mean']:.4g} ± {result['sd']:.2g}"
            row[f"{given} p"] = f"{result['p']:.2f} ± {result['error']:.2f}" + " *" * (result["two_sided"] <= LEVEL)
        rows.append(row)
    notes = dict.fromkeys(note for each in checks for note in each.notes.values())
    return "\n\n".join([markdown(rows), *notes])
