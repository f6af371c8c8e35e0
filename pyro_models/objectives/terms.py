"""Terms beside the bound: named, weighted, and to be minimised.

They read q(y | x), a guide's distribution over classes or clusters. With them the loss is -elbo + the sum of weight *
term. No term here is below 0, so that -loss still bounds log p(x) from below wherever `elbo` does (not under `relaxed`,
whose story is another one, nor with beta below 1), though loosely. `elbo` among the terms is unchanged.

Each takes (classify, x, log_q): what gives q(y | x) of other data in the same pass (see `SharedNoise`), the data
[batch, *shape], and log q(y | x) of them, [batch, classes]. One that has an argument `log_p` gets log p(y) of the story
too, [classes], or None where the story has no such prior. It returns a scalar in nats.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from inspect import signature
from typing import Any

import pyro
import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_models.objectives.adversarial import Classify, SharedNoise, divergence, frozen_statistics, module_of
from pyro_models.objectives.estimators import Objective, Terms, named
from pyro_models.objectives.handlers import AtMean, CaptureSite, FixLabels
from pyro_models.objectives.programs import Program

Term = Callable[..., Tensor]
"""From (classify, x, log_q) to a scalar in nats."""


def regularised(
    objective: Objective, terms: Mapping[str, tuple[float, Term]], classify: Classify, site: str = "y"
) -> Objective:
    """`objective` plus weight * term for each named term of q(y | x); itself where every weight is 0.

    The terms read the very q(y | x) that the guide computed for the bound: it costs no second pass. A guide that
    classifies before it draws anything shares its dropout masks with the terms' own passes.

    Args:
        objective: a bound, or `discriminative`, whose guide draws y.
        terms: from names to weights and terms.
        classify: an `nn.Module` or a method of one, which gives q(y | x).
        site: the name of y in the guide.

    Raises:
        ValueError: the guide draws no such site.

    Example:
        >>> from torch import nn
        >>> from pyro_models.guides.classifier import ClassifierGuide
        >>> from pyro_models.classifier import Classifier
        >>> network = nn.Linear(2, 3)
        >>> model, guide = Classifier(network), ClassifierGuide(network)
        >>> terms = {"entropy": (0.5, entropy), "marginal_kl": (1.0, marginal_kl)}
        >>> objective = regularised(discriminative(guide.classify), terms, guide.classify)
        >>> objective(model, guide, x=torch.randn(4, 2)).weights
        {'entropy': 0.5, 'marginal_kl': 1.0}
    """
    wanted = {name: (weight, term) for name, (weight, term) in terms.items() if weight}
    if not wanted:
        return objective

    def whole(model: Program, guide: Program, **batch: Tensor) -> Terms:
        again, x = SharedNoise(classify), batch["x"]
        with CaptureSite(site) as captured:
            result = Terms(objective(model, guide, **batch))
        if captured.fn is None:
            raise ValueError(f"the guide draws no site {site!r}, whose distribution the terms are of")
        log_q = captured.fn.logits.reshape(-1, len(x), captured.fn.event_shape[-1])[0]  # the same for every particle
        for name, (weight, term) in wanted.items():
            prior = {"log_p": log_prior(captured.prior)} if "log_p" in signature(term).parameters else {}
            result = result.plus(named(name, term(again, x, log_q, **prior)), weight)
        return result

    return whole


def discriminative(classify: Classify) -> Objective:
    """The objective of data that no bound is of: its loss is 0, and terms read the q(y | x) of its site y.

    A classifier p(y | x) assigns no density to x alone; with `regularised`, unlabelled data train it all the same.
    """

    def objective(model: Program, guide: Program, **batch: Tensor) -> Terms:
        with AtMean(), pyro.plate("data", len(batch["x"])):
            pyro.sample("y", classify(batch["x"]))
        return Terms({"loss": batch["x"].new_zeros(())}, {})

    return objective


def log_prior(prior: Any) -> Tensor | None:
    """Return log p(y), [classes], of a story's site y, if it is the same for all data; without a gradient."""
    logits = getattr(prior, "logits", None)
    if logits is None:
        return None
    rows = logits.detach().reshape(-1, logits.shape[-1])
    shared = rows.stride(0) == 0 or bool((rows == rows[0]).all())  # expanded rows are not read, nor compared
    return rows[0].log_softmax(-1) if shared else None


def marginal_kl(classify: Classify, x: Tensor, log_q: Tensor, log_p: Tensor | None = None) -> Tensor:
    """KL(q(y) || p(y)) of q(y), the mean of q(y | x) over the batch; p(y) None is uniform: all classes as frequent.

    No gradient goes into p(y), which would follow q(y) wherever it goes; the bound moves it.

    Example:
        >>> balanced, collapsed = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log(), torch.tensor([[0.999, 0.001]] * 2).log()
        >>> [abs(round(marginal_kl(None, None, log_q).item(), 3)) for log_q in (balanced, collapsed)]
        [0.0, 0.685]
    """
    log_marginal = log_q.logsumexp(0) - math.log(len(log_q))
    if log_p is None:
        return (log_marginal.exp() * (log_marginal + math.log(log_q.shape[-1]))).sum()
    return (log_marginal.exp() * (log_marginal - log_p)).sum()


def entropy(classify: Classify, x: Tensor, log_q: Tensor) -> Tensor:
    """Mean entropy of q(y | x): 0 where each datum is assigned with certainty.

    `entropy` + `marginal_kl` is log K minus the mutual information of x and y in the guide (Krause, Perona and Gomes,
    Discriminative clustering by regularized information maximization, 2010).

    Example:
        >>> sure, unsure = torch.tensor([[0.999, 0.001], [0.001, 0.999]]).log(), torch.full((2, 2), 0.5).log()
        >>> [round(entropy(None, None, log_q).item(), 3) for log_q in (sure, unsure)]
        [0.008, 0.693]
    """
    return -(log_q.exp() * log_q).sum(-1).mean()


def consistency(classify: Classify, x: Tensor, log_q: Tensor, *, jitter: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean KL(q(y | x) || q(y | jitter(x))), with no gradient into the first: invariance to augmentation.

    Sajjadi, Javanmardi and Tasdizen, Regularization with stochastic transformations, 2016; for clustering, Hu et al.,
    IMSAT, 2017.
    """
    return divergence(log_q.detach(), classify(jitter(x)).logits)


def imitation(classify: Classify, x: Tensor, log_q: Tensor, *, teacher: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean KL(r(y | x) || q(y | x)) from the assignments r of a simpler model: a start for q(y | x).

    Args:
        classify, x, log_q: as for every term.
        teacher: from data to log r(y | x), [batch, classes].
    """
    return divergence(teacher(x), log_q)


def jitter(x: Tensor, amount: float) -> Tensor:
    """Augment data: images [batch, channel, height, width] by random affine maps, rows [batch, columns] by noise.

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


def of_chosen_labels(bound: Objective) -> Objective:
    """`bound` of data whose labels were chosen, whose frequencies say nothing of p(y): it does not train p(y).

    A few labels, or as many of each class, would else drive learned mixture weights against q(y | x) of all the data.
    """

    def chosen(model: Program, guide: Program, **batch: Tensor) -> Terms:
        with FixLabels():
            return Terms(bound(model, guide, **batch))

    return chosen


def with_labels(
    objective: Objective | None, bound: Objective, classify: Classify, *, weight: float = 0.0, share: float = 1.0
) -> Objective:
    """`objective` of the data, `share` * -elbo(x, y) of labelled ones and `weight` * their cross-entropy.

    Kingma et al., Semi-supervised learning with deep generative models, 2014, equation 9. A batch brings `labelled_x`
    and `labelled_y` (one-hot) beside `x`. Each part is a mean over its own data, and its terms have names that begin
    `labelled_` where the unlabelled have such. The running statistics of batch norm
    in the classifier are those of all the data, not of the labelled, which come again in each step.

    Args:
        objective: of all data, whose labels it does not see; None leaves it out.
        bound: an estimator, for the labelled; y is observed there.
        classify: q(y | x), an `nn.Module` or a method of one.
        weight: of the cross-entropy, -log q(y | x).
        share: weight of the labelled bound; labelled data per unlabelled one, for every datum to count equally.
    """

    def both(model: Program, guide: Program, **batch: Tensor) -> Terms:
        x, y = batch.pop("labelled_x"), batch.pop("labelled_y")
        terms = Terms(objective(model, guide, **batch)) if objective else Terms({"loss": x.new_zeros(())}, {})
        prefix = "labelled_" if "elbo" in terms else ""
        with frozen_statistics(module_of(classify)) if objective else nullcontext():
            terms = terms.plus(bound(model, guide, x=x, y=y), share, prefix)
            if weight:
                terms = terms.plus(named("cross_entropy", -classify(x).log_prob(y).mean()), weight)
        return terms

    return both
