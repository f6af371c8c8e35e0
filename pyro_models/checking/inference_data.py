"""Draws and data in the groups of ArviZ, for its plots and summaries."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pyro_models.base.errors import UserError, first_line
from pyro_models.checking.predictive import Samples, thinned
from pyro_models.checking.replicates import Replicate, as_drawn, replicate, run
from pyro_models.metrics.evaluation import eval_mode
from pyro_models.objectives import Arguments, Program, arguments

Groups = dict[str, dict[str, np.ndarray]]


def groups(
    model: Program,
    guide: Program | Samples | None,
    data: Arguments,
    *,
    draws: int = 100,
    seed: int = 0,
    prior: bool = True,
) -> Groups:
    """Draw from the story and from the guide, and group the draws as ArviZ does.

    Args:
        model, guide: the pair; in place of the guide also draws of all latents by site, [draws, *shape] each; None
            leaves out what needs the posterior.
        data: what both are called with: a mapping of keyword arguments, a tuple of positional ones, or the only one;
            grey pixels are drawn black or white where the story's are.
        draws: how many of each group.
        seed: of the draws.
        prior: whether there are draws from the prior; where they fail and there is a guide, a warning says why.

    Returns:
        `posterior`, `posterior_predictive`, `prior`, `prior_predictive` by site, [1, draws, *shape], as one chain;
        `log_likelihood`, log p(x | z) in nats at the posterior's draws, [1, draws, *batch], or [1, draws, counted] of
        the entries that a mask leaves in; `observed_data`; `constant_data`, the other arrays among named arguments.

    Raises:
        UserError: a site cannot be drawn, and there is no guide.

    >>> from pyro_models.guides import VAEGuide
    >>> from pyro_models import VAE, distributions
    >>> model = VAE(torch.nn.Linear(2, 4), distributions.NormalLikelihood(1.0, 1), 2)
    >>> guide = VAEGuide(torch.nn.Linear(4, 4))
    >>> groups(model, guide, {"x": torch.zeros(7, 4)}, draws=5)["posterior"]["z"].shape
    (1, 5, 7, 2)
    """
    return _drawn(model, guide, data, draws, seed, prior)[0]


def as_arviz(
    model: Program,
    guide: Program | Samples | None,
    data: Arguments,
    *,
    draws: int = 100,
    seed: int = 0,
    prior: bool = True,
) -> Any:
    """Return the `groups` of a pair in the type of ArviZ: a `DataTree` from version 1 on, an `InferenceData` before.

    Dimensions have the names of plates, and their coordinates are the plate's indices.

    Raises:
        UserError: ArviZ is not installed, or a site cannot be drawn.
    """
    try:
        import arviz
    except ImportError:
        raise UserError("ArviZ is not installed: pip install 'pyro-stories[arviz]'") from None
    by_group, dims, coords = _drawn(model, guide, data, draws, seed, prior)
    from_dict = cast(Any, arviz).from_dict
    if arviz.__version__.startswith("0."):
        return from_dict(**by_group, dims=dims, coords=coords)
    return from_dict(by_group, dims=dims, coords=coords)


def _drawn(
    model: Program, guide: Program | Samples | None, data: Arguments, draws: int, seed: int, prior: bool
) -> tuple[Groups, dict[str, list[str]], dict[str, np.ndarray]]:
    """Return the groups, the names of their dimensions by site, and the coordinates of these."""
    with eval_mode(model, *([guide] if callable(guide) else []), seed=seed):
        given: Iterable[Any] = thinned(guide, draws) if isinstance(guide, Mapping) else [guide] * draws
        fixed: dict[str, Tensor] = {}
        posterior: list[Replicate] = []
        for values in given if guide is not None else []:
            posterior.append(replicate(model, values, data, subsamples=fixed))
            fixed |= posterior[0].subsamples
        from_prior = _of_prior(model, data, draws, fixed, warn=guide is not None) if prior else []
        first = (posterior or from_prior)[0]
        observed = {
            name: as_drawn(value, first.drawn[name]).expand(first.drawn[name].shape)
            for name, value in first.observed.items()
        }
        log_p = [_log_likelihood(model, data, each, observed) for each in posterior]
    by_group = {
        "posterior": _chain([each.latents for each in posterior]),
        "posterior_predictive": _chain([each.drawn for each in posterior]),
        "log_likelihood": _chain(log_p),
        "prior": _chain([each.latents for each in from_prior]),
        "prior_predictive": _chain([each.drawn for each in from_prior]),
        "observed_data": {name: value.detach().cpu().numpy() for name, value in observed.items()},
        "constant_data": _constants(data, first),
    }
    by_group = {name: group for name, group in by_group.items() if group}
    dims, coords = _dimensions(first, {*first.plates, *by_group.get("constant_data", {})})
    return by_group, dims, coords


def _of_prior(model: Program, data: Arguments, draws: int, fixed: Mapping[str, Tensor], warn: bool) -> list[Replicate]:
    """Draw prior replicates; none, with a warning, where they cannot be drawn and others can."""
    try:
        return [replicate(model, None, data, subsamples=fixed) for _ in range(draws)]
    except Exception as error:  # of a program, at values that it has never been run with
        if not warn:
            raise
        warnings.warn(f"the groups of the prior are left out: {first_line(error)}", stacklevel=4)
        return []


def _log_likelihood(
    model: Program, data: Arguments, replicated: Replicate, observed: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return log p(x | z) of each datum; of those that a mask leaves in, flattened, where there is one.

    The model runs at the latents with its own data, as a site may depend on what is observed at another.
    """
    sites = run(model, data, {**replicated.subsamples, **replicated.latents}, observed=False)
    log_p = {name: sites[name]["fn"].log_prob(value) for name, value in observed.items()}
    return {
        name: log_p[name][replicated.counted[name]] if name in replicated.counted else log_p[name] for name in log_p
    }


def _constants(data: Arguments, first: Replicate) -> dict[str, np.ndarray]:
    """Return the arrays among the keyword arguments that are not observed."""
    _, named = arguments(data)
    memories = {value.untyped_storage().data_ptr() for value in first.observed.values()}
    return {
        name: value.detach().cpu().numpy()
        for name, value in named.items()
        if isinstance(value, Tensor) and name not in first.plates and value.untyped_storage().data_ptr() not in memories
    }


def _dimensions(first: Replicate, variables: set[str]) -> tuple[dict[str, list[str]], dict[str, np.ndarray]]:
    """Name the dimensions of each site by its plates, unlike all variables, and give them the plates' indices."""
    names = {*first.drawn, *first.latents}
    sizes: dict[str, set[int]] = {}
    for name in names:
        for frame in first.plates[name]:
            sizes.setdefault(frame.name, set()).add(frame.size)
    # ArviZ knows a dimension by its name: not one of several sizes, and not that of a variable
    labels = {name: f"{name}_plate" if name in variables else name for name, size in sizes.items() if len(size) == 1}
    dims: dict[str, list[str]] = {}
    for name in names:
        value = first.drawn.get(name, first.latents.get(name))
        ndim = 0 if value is None else value.ndim
        dims[name] = [f"{name}_dim_{k}" for k in range(ndim)]
        for frame in first.plates[name]:
            at = ndim - first.event_dims[name] + frame.dim
            if frame.name in labels and at >= 0 and value is not None and value.shape[at] == frame.size:
                dims[name][at] = labels[frame.name]
    coords = {
        labels[name]: np.asarray(first.subsamples[name].cpu()) if name in first.subsamples else np.arange(*sizes[name])
        for name in labels
    }
    return dims, coords


def _chain(draws: list[dict[str, Tensor]]) -> dict[str, np.ndarray]:
    return (
        {name: torch.stack([draw[name] for draw in draws])[None].detach().cpu().numpy() for name in draws[0]}
        if draws
        else {}
    )
