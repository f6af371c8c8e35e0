"""Draws and data in the groups that ArviZ knows, for its own plots."""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from pyro_models.base.errors import UserError
from pyro_models.checking.replicates import as_drawn, replicate
from pyro_models.metrics.evaluation import Data, Program, eval_mode

Groups = dict[str, dict[str, np.ndarray]]


def groups(model: Program, guide: Program, data: Data, *, draws: int = 100, seed: int = 0) -> Groups:
    """Draw from the story and from the guide, and group it as ArviZ does.

    Args:
        model, guide: the pair.
        data: what both are called with, [n, *shape] each; grey pixels are drawn black or white where the story's are.
        draws: how many of all.
        seed: of the draws.

    Returns:
        `posterior`, `posterior_predictive`, `prior`, `prior_predictive` by site, [1, draws, n, *shape], as one chain;
        `log_likelihood`, log p(x | z) in nats at the posterior's draws, [1, draws, n]; `observed_data`, [n, *shape].
    """
    with eval_mode(model, guide, seed=seed):
        told, made_up = ([replicate(model, half, data) for _ in range(draws)] for half in (guide, None))
        observed = {name: as_drawn(value, told[0].drawn[name]) for name, value in told[0].observed.items()}
        likelihoods = [{name: fn.log_prob(observed[name]) for name, fn in one.likelihood.items()} for one in told]
    return {
        "posterior": _chain([one.latents for one in told]),
        "posterior_predictive": _chain([one.drawn for one in told]),
        "log_likelihood": _chain(likelihoods),
        "prior": _chain([one.latents for one in made_up]),
        "prior_predictive": _chain([one.drawn for one in made_up]),
        "observed_data": {name: value.cpu().numpy() for name, value in observed.items()},
    }


def _chain(draws: list[dict[str, Tensor]]) -> dict[str, np.ndarray]:
    return {name: torch.stack([one[name] for one in draws])[None].cpu().numpy() for name in draws[0]}


def as_arviz(model: Program, guide: Program, data: Data, *, draws: int = 100, seed: int = 0) -> Any:
    """Return the `groups` of a pair as ArviZ holds them: a `DataTree` of its version 1, before an `InferenceData`.

    Raises:
        UserError: ArviZ is not installed.
    """
    try:
        import arviz
    except ImportError:
        raise UserError("ArviZ is not installed: pip install 'pyro-stories[arviz]'") from None
    found, of_groups = groups(model, guide, data, draws=draws, seed=seed), cast(Any, arviz).from_dict
    return of_groups(**found) if arviz.__version__.startswith("0.") else of_groups(found)
