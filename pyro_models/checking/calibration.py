"""Simulation-based calibration of a guide: do its posteriors have the location and the width of the model's?

Talts, Betancourt, Simpson, Vehtari and Gelman, Validating Bayesian inference algorithms with simulation-based
calibration, 2018; Säilynoja, Bürkner and Vehtari, Graphical test for discrete uniformity and its applications in
goodness-of-fit evaluation and multiple sample comparison, 2022 (the bands).
"""

import copy
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from pyro_models.base.errors import UserError
from pyro_models.checking.replicates import (
    Replicate,
    data_plate,
    densities_of,
    latents_of_guide,
    plate_dim,
    replicate,
    run,
)
from pyro_models.metrics.evaluation import eval_mode
from pyro_models.objectives import Arguments, Program

BINS = 20
SIMULATIONS = 200  # of a model whose data share a latent
COMPONENTS = 50  # of a latent of such a model
Refit = Callable[[Any], Program | Mapping[str, Tensor]]
"""From simulated data, in the form of the data, to a guide fitted to them, or to draws of all latents by site."""
Placement = Callable[[Mapping[str, Tensor]], Arguments]
"""From values of the observed sites to arguments that hold them in place of the data."""


@dataclass(frozen=True)
class Ranks:
    """The ranks of latents drawn from the model among draws from the guide.

    Attributes:
        latent: the name of one dimension of a latent site, as z[0].
        values: for each simulated datum or data set, how many of the guide's draws lie below the latent's value, [n].
        draws: how many draws the guide made for each.
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
    def ecdf_difference(self) -> np.ndarray:
        """The share of ranks of at most k less what it is if all are equally likely, at k = 0 to draws: [draws + 1]."""
        share = torch.bincount(self.values, minlength=self.draws + 1).cumsum(0).numpy() / len(self.values)
        return share - np.arange(1, self.draws + 2) / (self.draws + 1)

    @property
    def band(self) -> tuple[np.ndarray, np.ndarray]:
        """Between which bounds the whole `ecdf_difference` lies with 95 % if all ranks are equally likely."""
        return _band(len(self.values), self.draws + 1)


@lru_cache
def _band(count: int, size: int, level: float = 0.95, simulations: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Simultaneous bounds of the difference in `ecdf_difference`, [size] each.

    The bounds at each rank are quantiles of its binomial at one level, at which `level` of simulated sets of ranks
    stay within all of them (section 2.2 of Säilynoja et al., by simulation).
    """
    from scipy.stats import binom

    expected = np.arange(1, size + 1) / size
    counts = np.random.default_rng(0).multinomial(count, np.full(size, 1 / size), simulations).cumsum(1)[:, :-1]
    below, above = binom.cdf(counts, count, expected[:-1]), binom.sf(counts - 1, count, expected[:-1])
    each = np.quantile(2 * np.minimum(below, above).min(1), 1 - level)
    low, high = (binom.ppf(q, count, expected) / count - expected for q in (each / 2, 1 - each / 2))
    return low, high


def calibrate(
    model: Program,
    guide: Program | None,
    data: Arguments,
    *,
    draws: int = 99,
    simulations: int | None = None,
    refit: Refit | None = None,
    seed: int = 0,
) -> list[Ranks]:
    """Rank latents drawn from the model among those that the guide draws given the data that came with them.

    If the guide is the posterior, all ranks are equally likely (theorem 1 of the article). Equal values, as of
    clusters, get a random order.

    The simulated data take the place of the data in the pair's arguments; all others stay as they are. Where all
    latents are in one plate, each of its elements is a simulated datum. Where data share a latent, each simulation is
    a data set of its own; of a latent with more than 50 dimensions there, 50 are ranked.

    Args:
        model, guide: the pair; no guide where `refit` makes it.
        data: what both are called with: a mapping of keyword arguments, a tuple of positional ones, or the only one.
            What is missing in them (NaN) is missing in what is simulated.
        draws: of the guide for each datum or data set; 20 must divide draws + 1.
        simulations: how many data sets are simulated; None is 1 where each of its data has latents of its own, and 200
            where they share some.
        refit: called with each simulated data set, in the form of `data`; returns a guide fitted to it, or draws of all
            latents by site, [draws, *shape] each, as of an MCMC. For guides that do not read the data (AutoGuides).
        seed: of the draws.

    Returns:
        the ranks of each dimension of each latent site that the guide draws.

    Raises:
        ValueError: the ranks do not fall into equal bins.
        UserError: the prior cannot be drawn from; where an observed value comes from in the arguments cannot be told,
            or the model reads it elsewhere too; the guide does not read the data, and there is no `refit`.

    >>> from pyro_models.guides import VAEGuide
    >>> from pyro_models import VAE, distributions
    >>> model = VAE(torch.nn.Linear(2, 4), distributions.NormalLikelihood(1.0, 1), 2)
    >>> ranks = calibrate(model, VAEGuide(torch.nn.Linear(4, 4)), {"x": torch.zeros(100, 4)}, draws=19)
    >>> [(each.latent, sum(each.counts)) for each in ranks]
    [('z[0]', 100), ('z[1]', 100)]
    """
    if (draws + 1) % BINS:
        raise ValueError(f"{draws} draws make {draws + 1} ranks, which do not fall into {BINS} equal parts")
    if (guide is None) == (refit is None):
        raise UserError("give a guide, or `refit`, which returns one for each simulated data set")
    with eval_mode(model, *([guide] if guide else []), seed=seed):
        first = replicate(model, None, data)
        placed = _placement(model, data, first)
        plate = data_plate(first)
        if guide:
            _check_reads_data(guide, placed, first, replicate(model, None, data, subsamples=first.subsamples))
        ranks: dict[str, list[Tensor]] = {}
        for number in range(simulations or (1 if plate else SIMULATIONS)):
            simulated = replicate(model, None, data, subsamples=first.subsamples) if number else first
            for name, values in simulated.drawn.items():
                if not (values.isfinite() | simulated.observed[name].isnan()).all():
                    raise UserError(f"a simulated {name!r} is not finite: the prior is too wide to calibrate with")
            inferred = _inferring(guide, refit, placed(simulated.drawn), simulated.subsamples, draws)
            for name, values in _ranks(inferred, simulated.latents, draws).items():
                ranks.setdefault(name, []).append(values)
    return [
        Ranks(latent, values, draws)
        for name, each in ranks.items()
        for latent, values in _components(name, torch.stack(each), first, plate)
    ]


def _inferring(
    guide: Program | None, refit: Refit | None, data: Arguments, subsamples: Mapping[str, Tensor], draws: int
) -> Callable[[int], Mapping[str, Tensor]]:
    """Return the function that infers latents from simulated data, a draw for each number below `draws`."""
    fitted: Any = guide or _refitted(refit, data)
    if not isinstance(fitted, Mapping):
        return lambda number: latents_of_guide(run(fitted, data, subsamples, observed=False))
    count = min(len(values) for values in fitted.values())
    if count < draws:
        raise UserError(f"`refit` returns {count} draws, fewer than `draws={draws}`")
    numbers = torch.linspace(0, count - 1, draws).round().long()
    return lambda number: {name: values[numbers[number]] for name, values in fitted.items()}


def _refitted(refit: Any, data: Arguments) -> Any:
    """Fit a guide in a parameter store of its own, without a trace in the noise of what follows."""
    store = pyro.get_param_store()
    with torch.random.fork_rng(), store.scope(copy.deepcopy(store.get_state())), torch.enable_grad():
        torch.seed()
        fitted = refit(data)
        state = copy.deepcopy(store.get_state())
    if isinstance(fitted, Mapping):
        return fitted
    if not callable(fitted):
        raise UserError(f"`refit` returns {type(fitted).__name__}: it must return a guide, or draws by site")

    def in_its_store(*args: Any, **kwargs: Any) -> Any:
        with store.scope(state):
            return fitted(*args, **kwargs)

    return in_its_store


def _ranks(
    inferred: Callable[[int], Mapping[str, Tensor]], latents: Mapping[str, Tensor], draws: int
) -> dict[str, Tensor]:
    """Rank latents among the draws of a guide: shaped as the latents."""
    below: dict[str, Tensor] = {}
    ties: dict[str, Tensor] = {}
    for number in range(draws):
        for name, value in inferred(number).items():
            if name not in latents:
                continue
            latent = latents[name]
            if value.numel() != latent.numel() or [n for n in value.shape if n > 1] != [
                n for n in latent.shape if n > 1
            ]:
                raise UserError(f"the guide draws {name!r} of the shape {list(value.shape)}, not {list(latent.shape)}")
            value = value.reshape(latent.shape)
            below[name] = below.get(name, 0) + (value < latent).long()
            ties[name] = ties.get(name, 0) + (value == latent).long()
    if not below:
        raise UserError(f"the guide draws no latent site of the model: these are {sorted(latents)}")
    return {
        name: (below[name] + torch.rand_like(ties[name], dtype=torch.get_default_dtype()) * (ties[name] + 1)).long()
        for name in below
    }


def _components(name: str, ranks: Tensor, first: Replicate, plate: Any) -> list[tuple[str, Tensor]]:
    """Name the dimensions of a latent's ranks, [simulations, *shape], over data and simulations: [n] each."""
    if plate:
        dim = plate_dim(first.plates[name], plate.name, first.event_dims[name])
        ranks = ranks.movedim(dim, 1).flatten(0, 1)
    ranks = ranks.cpu()
    indices: list[tuple[int, ...]] = list(itertools.product(*map(range, ranks.shape[1:])))
    if not plate and len(indices) > COMPONENTS:
        indices = [indices[k] for k in torch.linspace(0, len(indices) - 1, COMPONENTS).long().tolist()]
    columns = ranks.movedim(0, -1)
    return [(name + (f"[{','.join(map(str, i))}]" if i else ""), columns[i]) for i in indices]


def _check_reads_data(guide: Program, placed: Placement, first: Replicate, second: Replicate) -> None:
    """Refuse a guide that draws a latent in the same way whatever the data are."""
    run(guide, placed(first.observed), first.subsamples, observed=False)  # an AutoGuide makes its parameters now
    same: set[str] | None = None
    for seed in range(5):  # a later site may differ through an earlier discrete draw alone, which is rare
        a, b = (_at_seed(seed, guide, placed(each.drawn), first.subsamples) for each in (first, second))
        equal = {name for name in latents_of_guide(a) if name in b and _equal(a[name], b[name])}
        same = equal if same is None else same & equal
        if not same:
            return
    raise UserError(
        f"the guide draws {min(same or '')!r} alike whatever the data are, being fitted to one data set: give `refit`, "
        "a function that returns a guide fitted to the data that it is called with"
    )


def _equal(a: Any, b: Any) -> bool:
    """Whether two runs drew the same from the same distribution."""
    return torch.equal(a["value"], b["value"]) and torch.equal(*(site["fn"].log_prob(site["value"]) for site in (a, b)))


def _at_seed(seed: int, guide: Program, data: Arguments, subsamples: Mapping[str, Tensor]) -> dict[str, Any]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return run(guide, data, subsamples, observed=False)


def _placement(model: Program, data: Arguments, first: Replicate) -> Placement:
    """Return how values of the observed sites are put into the arguments in place of the data.

    An observed value that shares memory with an argument, as the argument itself or a slice of it does, is written
    there. A copy, as of indexing, is recognised by running the model on an argument whose entries are numbered. With
    values put in place the model must observe these and no others, and all densities must be as they were.

    Raises:
        UserError: an observed value is not found in the arguments, or is read elsewhere too.
    """
    leaves = [leaf for leaf in tree_leaves(data) if isinstance(leaf, Tensor)]
    numbered: dict[str, tuple[Tensor, Tensor]] = {}
    for name, value in first.observed.items():
        if not any(_storage(leaf) == _storage(value) for leaf in leaves):
            numbered[name] = _entries(model, data, leaves, first, name)

    def placed(values: Mapping[str, Tensor]) -> Arguments:
        memories = {_storage(leaf): _memory(leaf) for leaf in leaves}
        for name, value in values.items():
            if name in numbered:
                leaf, indices = numbered[name]
                view = _in_memory(memories[_storage(leaf)], leaf)
                rows = torch.unravel_index(indices, leaf.shape)
                view[rows] = value.expand(indices.shape).to(leaf.dtype)
            else:
                observed = first.observed[name]
                _in_memory(memories[_storage(observed)], observed).copy_(value.reshape(observed.shape))

        def renewed(leaf: Any) -> Any:
            return _in_memory(memories[_storage(leaf)], leaf) if isinstance(leaf, Tensor) else leaf

        return tree_map(renewed, data)

    before = run(model, data, {**first.subsamples, **first.latents}, observed=False)
    after = run(model, placed(first.drawn), {**first.subsamples, **first.latents}, observed=False)
    densities, expected = densities_of(after), densities_of(before)
    for name, values in first.drawn.items():
        if not _alike(after[name]["value"], values):
            raise UserError(
                f"the observed value of {name!r} is computed from the arguments, and cannot be simulated there"
            )
        expected[name] = first.likelihood[name].log_prob(values)
    for name, density in expected.items():
        if not _alike(densities[name], density):
            raise UserError(
                f"{name!r} depends on the arguments that the observed values are in: simulated data would not be the "
                "model's; pass the data for these two uses as two arguments"
            )
    return placed


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), 1e-3, 1e-4, equal_nan=True)


def _entries(
    model: Program, data: Arguments, leaves: list[Tensor], first: Replicate, name: str
) -> tuple[Tensor, Tensor]:
    """Return the argument that an observed value is a copy from, and of which entries."""
    for leaf in leaves:
        if leaf.dtype == torch.bool or leaf.numel() < 2:
            continue
        numbers = torch.arange(leaf.numel()).to(leaf).reshape(leaf.shape)
        try:
            sites = run(
                model,
                tree_map(lambda x, leaf=leaf, n=numbers: n if x is leaf else x, data),
                first.subsamples,
                observed=False,
            )
            entries = torch.as_tensor(sites[name]["value"])
        except Exception:  # of a program that cannot take such numbers: another argument, or a refusal, follows
            continue
        indices = entries.long()
        inside = (entries == indices) & (indices >= 0) & (indices < leaf.numel())
        if inside.all() and _alike(leaf.flatten()[indices.to(leaf.device)], first.observed[name]):
            return leaf, indices
    raise UserError(f"the observed value of {name!r} is no part of an argument, and cannot be simulated there")


def _storage(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _memory(leaf: Tensor) -> Tensor:
    """Return a copy of all memory that a tensor is in."""
    return torch.empty(0, dtype=leaf.dtype, device=leaf.device).set_(leaf.untyped_storage()).clone()  # type: ignore[call-overload]


def _in_memory(memory: Tensor, leaf: Tensor) -> Tensor:
    return memory.as_strided(leaf.shape, leaf.stride(), leaf.storage_offset())
