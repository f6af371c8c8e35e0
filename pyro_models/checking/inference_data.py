"""Draws and data in the groups of ArviZ, for its plots and summaries."""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pyro_models.base.errors import UserError
from pyro_models.checking.replicates import as_drawn, replicate
from pyro_models.metrics.evaluation import Data, Program, eval_mode

Groups = dict[str, dict[str, np.ndarray]]


def groups(model: Program, guide: Program, data: Data, *, draws: int = 100, seed: int = 0) -> Groups:
    """Draw from the story and from the guide, and group the draws as ArviZ does.

    Args:
        model, guide: the pair.
        data: what both are called with, [n, *shape] each; grey pixels are drawn black or white where the story's are.
        draws: how many of each group.
        seed: of the draws.

    Returns:
        `posterior`, `posterior_predictive`, `prior`, `prior_predictive` by site, [1, draws, n, *shape], as one chain;
        `log_likelihood`, log p(x | z) in nats at the posterior's draws, [1, draws, n]; `observed_data`, [n, *shape].

    >>> from guides import VAEGuide
    >>> from pyro_models import VAE, distributions
    >>> model = VAE(torch.nn.Linear(2, 4), distributions.NormalLikelihood(1.0, 1), 2)
    >>> guide = VAEGuide(torch.nn.Linear(4, 4))
    >>> groups(model, guide, {"x": torch.zeros(7, 4)}, draws=5)["posterior"]["z"].shape
    (1, 5, 7, 2)
    """
    with eval_mode(model, guide, seed=seed):
        posterior, prior = ([replicate(model, q, data) for _ in range(draws)] for q in (guide, None))
        observed = {name: as_drawn(value, posterior[0].drawn[name]) for name, value in posterior[0].observed.items()}
        log_p = [{name: fn.log_prob(observed[name]) for name, fn in each.likelihood.items()} for each in posterior]
    return {
        "posterior": _chain([each.latents for each in posterior]),
        "posterior_predictive": _chain([each.drawn for each in posterior]),
        "log_likelihood": _chain(log_p),
        "prior": _chain([each.latents for each in prior]),
        "prior_predictive": _chain([each.drawn for each in prior]),
        "observed_data": {name: value.cpu().numpy() for name, value in observed.items()},
    }


def _chain(draws: list[dict[str, Tensor]]) -> dict[str, np.ndarray]:
    return {name: torch.stack([draw[name] for draw in draws])[None].cpu().numpy() for name in draws[0]}


def as_arviz(model: Program, guide: Program, data: Data, *, draws: int = 100, seed: int = 0) -> Any:
    """Return the `groups` of a pair in the type of ArviZ: a `DataTree` from version 1 on, an `InferenceData` before.

    Raises:
        UserError: ArviZ is not installed.
    """
    try:
        import arviz
    except ImportError:
        raise UserError("ArviZ is not installed: pip install 'pyro-stories[arviz]'") from None
    by_group, from_dict = groups(model, guide, data, draws=draws, seed=seed), cast(Any, arviz).from_dict
    return from_dict(**by_group) if arviz.__version__.startswith("0.") else from_dict(by_group)
