"""Terms beside the bound: named, weighted, and to be minimised.

They read q(y | x), a guide's distribution over kinds. With them the loss is -elbo + the sum of weight * term, which
bounds nothing; `elbo` among the terms stays what it is.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pyro.distributions import OneHotCategorical
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_models.objectives.estimators import Model, Objective, Terms

Classify = Callable[[Tensor], OneHotCategorical]
"""From data [batch, *shape] to q(y | x), batch shape [batch] and event shape [kinds]."""
Term = Callable[[Tensor, Tensor], Tensor]
"""From log q(y | x), [batch, kinds], and x, [batch, *shape], to a scalar in nats."""


class Watch(Messenger):
    """Keep the distribution of the first site of a name: the guide's, which runs before the model.

    Attributes:
        fn: the distribution; None before the site is met.
    """

    def __init__(self, site: str):
        super().__init__()
        self.site = site
        self.fn: Any = None

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] == self.site and self.fn is None and not msg["is_observed"]:
            self.fn = msg["fn"]


def regularised(objective: Objective, terms: Mapping[str, tuple[float, Term]], site: str = "y") -> Objective:
    """`objective` plus weight * term for each named term of q(y | x); itself where every weight is 0.

    The terms read the very q(y | x) that the guide computed for the bound: it costs no second pass.
    """
    wanted = {name: (weight, term) for name, (weight, term) in terms.items() if weight}
    if not wanted:
        return objective

    def whole(model: Model, guide: Model, **batch: Tensor) -> Terms:
        with Watch(site) as watch:
            result = objective(model, guide, **batch)
        if watch.fn is None:
            raise ValueError(f"the guide draws no site {site!r}, whose distribution the terms are of")
        x = batch["x"]
        log_q = watch.fn.logits.reshape(-1, len(x), watch.fn.event_shape[-1])[0]  # the same for every particle
        for name, (weight, term) in wanted.items():
            value = term(log_q, x)
            result["loss"] = result["loss"] + weight * value
            result[name] = value.detach()
        return result

    return whole


def marginal_kl(log_q: Tensor, x: Tensor) -> Tensor:
    """KL(q(y) || uniform) for q(y), the mean of q(y | x) over the batch: 0 where all kinds are used alike."""
    log_marginal = log_q.logsumexp(0) - math.log(len(log_q))
    return (log_marginal.exp() * (log_marginal + math.log(log_q.shape[-1]))).sum()


def entropy(log_q: Tensor, x: Tensor) -> Tensor:
    """Mean entropy of q(y | x): 0 where every guess is sure.

    `entropy` + `marginal_kl` is log K less the mutual information of x and y under the guide (Krause, Perona and Gomes,
    Discriminative clustering by regularized information maximization, 2010).
    """
    return -(log_q.exp() * log_q).sum(-1).mean()


def consistency(classify: Classify, jitter: Callable[[Tensor], Tensor]) -> Term:
    """Mean KL(q(y | x) || q(y | jitter(x))), with no gradient into the first: a kind survives what leaves it the same.

    Sajjadi, Javanmardi and Tasdizen, Regularization with stochastic transformations, 2016; for clustering, Hu et al.,
    IMSAT, 2017.
    """

    def term(log_q: Tensor, x: Tensor) -> Tensor:
        moved = classify(jitter(x)).logits
        return F.kl_div(moved, log_q.detach(), log_target=True, reduction="batchmean")

    return term


def jitter(x: Tensor, amount: float) -> Tensor:
    """Move data a little: images [batch, channel, height, width] by random affine maps, rows [batch, columns] by noise.

    Args:
        x: the data.
        amount: standard deviation of the coefficients of the map, whose identity is 1 on the diagonal; shifts have a
            third of it, in half widths of the image. Of rows: of the noise.
    """
    if x.ndim == 2:
        return x + amount * torch.randn_like(x)
    coefficients = amount * torch.randn(len(x), 2, 3, device=x.device, dtype=x.dtype)
    coefficients[..., 2] /= 3
    maps = torch.eye(2, 3, device=x.device, dtype=x.dtype) + coefficients
    grid = F.affine_grid(maps, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def with_labels(
    objective: Objective, bound: Objective, classify: Classify, *, weight: float, share: float
) -> Objective:
    """`objective` of the data, `share` * -elbo(x, y) of labelled ones and `weight` * their cross-entropy.

    Kingma et al., Semi-supervised learning with deep generative models, 2014, equation 9. A batch brings `labelled_x`
    and `labelled_y` (one-hot) beside `x`. Each part is a mean over its own data.

    Args:
        objective: of the data whose labels are not looked at, be they known or not.
        bound: an estimator, for the labelled; y is observed there.
        classify: q(y | x).
        weight: of the cross-entropy, -log q(y | x).
        share: of the labelled bound; where every datum is to count alike, the labelled for each unlabelled one.
    """

    def both(model: Model, guide: Model, **batch: Tensor) -> Terms:
        x, y = batch.pop("labelled_x"), batch.pop("labelled_y")
        terms = objective(model, guide, **batch)
        known = bound(model, guide, x=x, y=y)
        cross_entropy = -classify(x).log_prob(y).mean()
        loss = terms["loss"] + share * known["loss"] + weight * cross_entropy
        named = {"labelled_elbo": known["elbo"], "cross_entropy": cross_entropy.detach()}
        return terms | {"loss": loss} | named

    return both
