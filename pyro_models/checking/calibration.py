"""Simulation-based calibration of a guide: do its posteriors have the location and the width of the model's?

Talts, Betancourt, Simpson, Vehtari and Gelman, Validating Bayesian inference algorithms with simulation-based
calibration, 2018; Säilynoja, Bürkner and Vehtari, Graphical test for discrete uniformity and its applications in
goodness-of-fit evaluation and multiple sample comparison, 2022 (the bands).
"""

import copy
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from tqdm import tqdm

from pyro_models.base.errors import UserError
from pyro_models.checking.replicates import (
    Replicate,
    Simulated,
    data_plate,
    densities_of,
    latents_of_guide,
    plate_dim,
    replicate,
    run,
    subsamples_of,
)
from pyro_models.metrics.evaluation import eval_mode
from pyro_models.objectives import ESTIMATORS, Arguments, Objective, Program, arguments, modules_of
from pyro_models.objectives.draws import draws_nothing, layout_of

BINS = 20
SIMULATIONS = 200  # of a model whose data share a latent
COMPONENTS = 50  # of a latent of such a model
Refit = Callable[[Any], Program | Mapping[str, Tensor]]
"""From simulated data, in the form of the data, to a guide fitted to them, or to draws of all latents by site."""
Latents = Mapping[str, Tensor]
"""Values of latent sites by name."""
Placement = Callable[[Replicate], Arguments]
"""From simulated data to arguments that hold them in place of the data."""


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
    steps: int = 500,
    learning_rate: float = 0.05,
    seed: int = 0,
) -> list[Ranks]:
    """Rank latents drawn from the model among those that the guide draws given the data that came with them.

    If the guide is the posterior, all ranks are equally likely (theorem 1 of the article). Equal values, as of
    clusters, get a random order.

    Where all latents are in one plate, each of its elements is a simulated datum. Where data share a latent, or read
    those of others, each simulation is a data set of its own; of a latent with more than 50 dimensions there, 50 are
    ranked.

    A guide that reads the data, as an encoder does, gets the simulated ones in the arguments, in place of the data. One
    that does not, as an AutoGuide, is fitted to each simulated data set: its parameters, from where they are, by
    `steps` steps of Adam on the ELBO, with a learning rate that falls to 0; the model's stay, and all are as before
    afterwards. Ranks show the fit as well as the guide: where the ELBO still rises, a warning says so. Observed sites
    take the simulated values there wherever the model has its data from; what it reads of the data elsewhere (earlier
    values in a regression on them) stays as it is, and is given. Of a plate that subsamples, one subsample is taken as
    all there is.

    Args:
        model, guide: the pair; no guide where `refit` makes it.
        data: what both are called with: a mapping of keyword arguments, a tuple of positional ones, or the only one.
            What is missing in them (NaN) is missing in what is simulated.
        draws: of the guide for each datum or data set; 20 must divide draws + 1.
        simulations: how many data sets are simulated; None is 1 where each of its data has latents of its own, and 200
            where they share some.
        refit: called with each simulated data set, in the form of `data`; returns a guide fitted to it, or draws of all
            latents by site, [draws, *shape] each, as of an MCMC.
        steps, learning_rate: of each fit of a guide that does not read the data.
        seed: of the draws.

    Returns:
        the ranks of each dimension of each latent site that the guide draws.

    Raises:
        ValueError: the ranks do not fall into equal bins.
        UserError: the prior cannot be drawn from; the guide reads the data, and where an observed value comes from in
            the arguments cannot be told, or the model reads it elsewhere too; the guide cannot be fitted.

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
        subsamples = subsamples_of(run(guide, data, {}, observed=False)) if guide else {}  # an AutoGuide is made now
        first = replicate(model, None, data, subsamples=subsamples)
        second = replicate(model, None, data, subsamples=first.subsamples)
        if not first.latents:
            raise UserError(f"the model has no latent site to rank, as {', '.join(map(repr, first.drawn))} is observed")
        plate = data_plate(first, layout_of(model, guide or draws_nothing, *arguments(data)).dependent)
        if refit is not None:
            infer = _by_refit(refit, _placement(model, data, first, second), draws)
        elif guide is not None:
            infer = _by_guide(model, guide, data, (first, second), draws, steps, learning_rate)
        ranks: dict[str, list[Tensor]] = {}
        for number in tqdm(range(simulations or (1 if plate else SIMULATIONS)), disable=None):
            simulated = replicate(model, None, data, subsamples=first.subsamples) if number else first
            for name, values in simulated.drawn.items():
                if not (values.isfinite() | simulated.observed[name].isnan()).all():
                    raise UserError(f"a simulated {name!r} is not finite: the prior is too wide to calibrate with")
            for name, values in _ranks(infer(simulated), simulated.latents).items():
                ranks.setdefault(name, []).append(values)
    return [
        Ranks(latent, values, draws)
        for name, each in ranks.items()
        for latent, values in _components(name, torch.stack(each), first, plate)
    ]


def _by_guide(
    model: Program,
    guide: Program,
    data: Arguments,
    examples: tuple[Replicate, Replicate],
    draws: int,
    steps: int,
    learning_rate: float,
) -> Callable[[Replicate], Iterable[Latents]]:
    """Return the function that infers latents from simulated data by a guide, which is fitted to them or reads them."""
    placed, unread = _reading(model, guide, data, *examples)

    def drawn(simulated: Replicate) -> Iterator[Latents]:
        given = placed(simulated) if placed else data
        for _ in range(draws):
            yield latents_of_guide(run(guide, given, simulated.subsamples, observed=False))

    if unread is None:
        return drawn
    kept = {id(parameter) for parameter in _parameters(model, data)}
    parameters = [parameter for parameter in _parameters(guide, data) if id(parameter) not in kept]
    if not parameters:
        raise UserError(
            f"the guide draws {unread!r} alike whatever the data are, and has no parameters of its own to fit to others"
        )

    def fitted(simulated: Replicate) -> Iterator[Latents]:
        before = [parameter.detach().clone() for parameter in parameters]
        try:
            with Simulated({} if placed else simulated.drawn, simulated.subsamples), torch.enable_grad():
                given = placed(simulated) if placed else data
                _fit(model, guide, given, parameters, steps, learning_rate)
            yield from drawn(simulated)
        finally:
            for parameter, value in zip(parameters, before, strict=True):
                parameter.data.copy_(value)

    return fitted


def _parameters(program: Program, data: Arguments) -> list[Tensor]:
    """Return the parameters, unconstrained, on which a program's draws or densities depend."""
    with torch.enable_grad(), poutine.trace(param_only=True) as recorded:
        sites = run(program, data, {}, observed=False).values()
        total = sum((site["fn"].log_prob(site["value"]).sum() for site in sites), torch.zeros(()))
        total = total + sum(site["value"].sum() for site in sites if site["value"].requires_grad)
    stored: list[Any] = [node["value"] for node in recorded.trace.nodes.values() if node["type"] == "param"]
    modules = [parameter for module in modules_of(program) for parameter in module.parameters()]
    unique = {id(each): each for each in [*modules, *(value.unconstrained() for value in stored)]}
    candidates = [each for each in unique.values() if each.requires_grad]
    if not total.requires_grad or not candidates:
        return []
    slopes = torch.autograd.grad(total, candidates, allow_unused=True)
    return [each for each, slope in zip(candidates, slopes, strict=True) if slope is not None]


def _fit(
    model: Program, guide: Program, data: Arguments, parameters: list[Tensor], steps: int, learning_rate: float
) -> None:
    """Climb the ELBO of data by some parameters, and warn where it has not reached its top."""
    args, kwargs = arguments(data)
    objective = _objective(model, guide, args, kwargs)
    optimizer = torch.optim.Adam(parameters, learning_rate)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    losses = torch.zeros(steps)
    for step in range(steps):
        optimizer.zero_grad()
        terms = objective(model, guide, *args, **kwargs)
        losses[step] = terms["loss"].detach() * (getattr(terms, "data", None) or 1)
        if not losses[step].isfinite():
            raise UserError(f"the guide cannot be fitted to simulated data: its ELBO is {-losses[step]}; give `refit`")
        terms["loss"].backward()
        optimizer.step()
        decay.step()
    third, last = losses[steps // 2 : steps * 3 // 4], losses[steps * 3 // 4 :]
    fallen = float(third.mean() - last.mean())
    if steps > 7 and fallen > max(0.1, 4 * float(third.var() / len(third) + last.var() / len(last)) ** 0.5):
        warnings.warn(
            f"the ELBO of a guide fitted to simulated data still rises, by {fallen:.2g} nats over the last quarter of "
            f"`steps={steps}`, and ranks show that too: give more, or a higher `learning_rate`",
            stacklevel=2,
        )


def _objective(model: Program, guide: Program, args: Any, kwargs: Any) -> Objective:
    """Return the estimator of the ELBO with the least noise that takes the pair, else `trace`."""
    for name in ("mean-field", "enum"):
        try:
            if ESTIMATORS[name](model, guide, *args, **kwargs)["loss"].isfinite():
                return ESTIMATORS[name]
        except UserError:
            continue
    return ESTIMATORS["trace"]


def _by_refit(refit: Refit, placed: Placement, draws: int) -> Callable[[Replicate], Iterable[Latents]]:
    """Return the function that infers latents from simulated data by the user's own fit."""

    def drawn(simulated: Replicate) -> Iterator[Latents]:
        data = placed(simulated)
        fitted = _refitted(refit, data)
        if not isinstance(fitted, Mapping):
            return (latents_of_guide(run(fitted, data, simulated.subsamples, observed=False)) for _ in range(draws))
        count = min(len(values) for values in fitted.values())
        if count < draws:
            raise UserError(f"`refit` returns {count} draws, fewer than `draws={draws}`")
        numbers = torch.linspace(0, count - 1, draws).round().long()
        return ({name: values[number] for name, values in fitted.items()} for number in numbers)

    return drawn


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


def _ranks(inferred: Iterable[Latents], latents: Latents) -> dict[str, Tensor]:
    """Rank latents among the draws of a guide: shaped as the latents."""
    below: dict[str, Tensor] = {}
    ties: dict[str, Tensor] = {}
    for drawn in inferred:
        for name, value in drawn.items():
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


def _reading(
    model: Program, guide: Program, data: Arguments, first: Replicate, second: Replicate
) -> tuple[Placement | None, str | None]:
    """Return how simulated data get into the arguments, and a site that the guide draws alike whatever they are.

    Raises:
        UserError: the guide reads an argument that observed values come from, in which they cannot be simulated.
    """
    latents = latents_of_guide(run(guide, data, first.subsamples, observed=False))
    try:
        placed = _placement(model, data, first, second)
    except UserError:
        if _varying(first, second):
            raise
        for leaf in tree_leaves(data):
            if isinstance(leaf, Tensor | float):
                other = tree_map(lambda x, leaf=leaf: _altered(x) if x is leaf else x, data)
                fixed = {**first.subsamples, **first.latents}
                moved = _changed(model, data, other, fixed) & first.observed.keys()
                if moved and _changed(guide, data, other, first.subsamples):
                    raise
        return None, min(latents, default=None)
    same = set(latents)
    for seed in range(5):  # a later site may differ through an earlier discrete draw alone, which is rare
        same -= _changed(guide, placed(first), placed(second), first.subsamples, seed)
    return placed, min(same, default=None)


def _altered(value: Any) -> Any:
    """Return a tensor with each row of its first half twice, or other numbers where these are all there are."""
    if isinstance(value, Tensor) and value.ndim:
        rows = value[torch.arange(len(value)) // 2]
        if not torch.equal(rows, value):
            return rows
    return ~value if isinstance(value, Tensor) and value.dtype == torch.bool else value + 1


def _changed(program: Program, data: Arguments, other: Arguments, values: Latents, seed: int = 0) -> set[str]:
    """Return the sites at which a program draws or observes something else with other data, at the same noise."""
    runs: list[dict[str, tuple[Tensor, Tensor]]] = []
    for each in (data, other):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            try:
                sites = run(program, each, values, observed=False)
                runs.append({name: (site["value"], site["fn"].log_prob(site["value"])) for name, site in sites.items()})
            except Exception:  # of a program that cannot take the other data: they do matter
                runs.append({})
    a, b = runs
    return {name for name in a if name not in b or not all(map(torch.equal, a[name], b[name]))}


def _varying(first: Replicate, second: Replicate) -> set[str]:
    """Return the observed sites whose values depend on what is drawn."""
    return {name for name, value in first.observed.items() if not _alike(value, second.observed[name])}


def _shifting(model: Program, data: Arguments, first: Replicate, second: Replicate) -> Placement:
    """Return how data get into the arguments of a model that observes how far they are from what it predicts.

    Such a value is argument + g(latents), and what is simulated for it is added there. That its slope is 1, whatever
    the latents are, and that no other density changes, is tried out at those of two simulations.

    Raises:
        UserError: an observed value depends on the latents in another way.
    """
    leaves: dict[str, Tensor] = {}

    def moved(simulated: Replicate) -> Arguments:
        result = data
        for name, leaf in leaves.items():
            change = (simulated.drawn[name] - simulated.observed[name]).reshape(leaf.shape)
            result = tree_map(lambda x, leaf=leaf, change=change: x + change if x is leaf else x, result)
        return result

    def follows(name: str, at: Replicate) -> bool:
        before, after = (run(model, each, at.latents, observed=False) for each in (data, moved(first)))
        expected = before[name]["value"] + first.drawn[name] - first.observed[name]
        densities, others = densities_of(before), densities_of(after)
        same = all(_alike(others[each], densities[each]) for each in densities if each != name)
        return same and _alike(after[name]["value"], expected)

    for name in first.drawn:
        for leaf in tree_leaves(data):
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel() == first.drawn[name].numel():
                leaves[name] = leaf
                if follows(name, first) and follows(name, second):
                    break
                del leaves[name]
        if name not in leaves:
            raise UserError(f"the observed value of {name!r} depends on what is drawn, and is no data to simulate")
    return moved


def _placement(model: Program, data: Arguments, first: Replicate, second: Replicate) -> Placement:
    """Return how values of the observed sites are put into the arguments in place of the data.

    An observed value that shares memory with an argument, as the argument itself or a slice of it does, is written
    there. A copy, as of indexing, is recognised by running the model on an argument whose entries are numbered. With
    values put in place the model must observe these and no others, and all densities must be as they were.

    Raises:
        UserError: an observed value is not found in the arguments, or is read elsewhere too.
    """
    if _varying(first, second):
        return _shifting(model, data, first, second)
    leaves = [leaf for leaf in tree_leaves(data) if isinstance(leaf, Tensor)]
    numbered: dict[str, tuple[Tensor, Tensor]] = {}
    for name, value in first.observed.items():
        if not any(_storage(leaf) == _storage(value) for leaf in leaves):
            numbered[name] = _entries(model, data, leaves, first, name)

    def placed(simulated: Replicate) -> Arguments:
        memories = {_storage(leaf): _memory(leaf) for leaf in leaves}
        for name, value in simulated.drawn.items():
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

    fixed = {**first.subsamples, **first.latents}
    with Simulated(first.drawn, first.subsamples):
        expected = densities_of(run(model, data, fixed, observed=False))
    after = run(model, placed(first), fixed, observed=False)
    for name, values in first.drawn.items():
        if not _alike(after[name]["value"], values):
            raise UserError(
                f"the observed value of {name!r} is computed from the arguments, and cannot be simulated there"
            )
    for name, density in densities_of(after).items():
        if not _alike(density, expected[name]):
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
