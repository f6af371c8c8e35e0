"""Clusters that a guide infers, scored against labels."""

import math
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.impute import KNNImputer
from sklearn.manifold import spectral_embedding
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import kneighbors_graph
from sklearn.preprocessing import normalize
from torch import Tensor
from torch.distributions import MultivariateNormal

from pyro_models.metrics.classification import agreement

DONORS = 2000  # rows that missing values of others are taken from, and that components are merged by
DOUBT = 0.01  # nats: less is none, and merged components may then leave less by joining two groups
LANDMARKS = 10_000  # rows that are cut into clusters, by which all others are assigned
NEIGHBOURS = 10
CLEARER = 0.2  # of the doubt of as many components as clusters: what merged ones may leave


def contingency(inferred: Tensor, labels: Tensor, clusters: int) -> Tensor:
    """Count the data of each cluster and label: [clusters, labels].

    >>> contingency(torch.tensor([1, 1, 0]), torch.tensor([0, 0, 1]), clusters=2)
    tensor([[0, 1],
            [2, 0]])
    """
    width = max(int(labels.max()) + 1, 1)
    counts = torch.bincount(inferred.cpu() * width + labels.cpu(), minlength=clusters * width)
    return counts.reshape(clusters, width)


def matching(counts: Tensor) -> list[tuple[int, int]]:
    """Match clusters to labels one to one so that most of the data agree (the Hungarian method), ordered by label.

    Args:
        counts: [clusters, labels].

    Returns:
        pairs of a cluster and its label, as many as the fewer of both.

    >>> matching(torch.tensor([[0, 9], [5, 2], [1, 0]]))
    [(1, 0), (0, 1)]
    """
    pairs = zip(*linear_sum_assignment(counts.numpy(), maximize=True), strict=True)
    return sorted(((int(cluster), int(label)) for cluster, label in pairs), key=lambda pair: pair[1])


def used(inferred: Tensor, clusters: int) -> Tensor:
    """Return for each cluster whether it holds at least a tenth of an even share of the data: [clusters].

    >>> used(torch.tensor([0] * 9 + [2]), clusters=3)
    tensor([ True, False,  True])
    """
    return torch.bincount(inferred.cpu(), minlength=clusters) >= 0.1 * len(inferred) / clusters


def score(inferred: Tensor, labels: Tensor | None, clusters: int, *, supervised: bool = False) -> dict[str, float]:
    """Score inferred clusters [n] against labels [n].

    Args:
        inferred: whole numbers below `clusters`.
        labels: what the data are, -1 where it is not known, which does not count; None leaves all but `clusters_used`.
        clusters: how many there are.
        supervised: whether cluster k was trained to be label k; `accuracy` then is the share of data where they agree.

    Returns:
        `accuracy` and `f1` (macro) with clusters matched to labels one to one, unless `supervised`; `purity`, the share
        of data with the commonest label of their cluster; `nmi` and `ari`, normalised mutual information and adjusted
        Rand index; `clusters_used`, how many hold a tenth or more of an even share of the data.

    >>> inferred, labels = torch.tensor([1, 1, 1, 0]), torch.tensor([0, 0, 1, 1])
    >>> scores = score(inferred, labels, 2)
    >>> scores["accuracy"], scores["purity"], scores["clusters_used"]
    (0.75, 0.75, 2.0)
    """
    scores = {"clusters_used": float(used(inferred, clusters).sum())}
    if labels is None or not (known := labels.cpu() >= 0).any():
        return scores
    labels, inferred = labels.cpu()[known], inferred.cpu()[known]
    if not supervised:
        labels = labels.unique(return_inverse=True)[1]  # whatever whole numbers they are
    counts = contingency(inferred, labels, clusters)
    both = (labels.cpu().numpy(), inferred.cpu().numpy())
    return {
        **agreement(inferred if supervised else as_labels(inferred, counts), labels),
        "purity": int(counts.max(1).values.sum()) / len(labels),
        "nmi": float(normalized_mutual_info_score(*both)),
        "ari": float(adjusted_rand_score(*both)),
    } | scores


def as_labels(inferred: Tensor, counts: Tensor) -> Tensor:
    """Replace clusters [n] by the labels that they match, -1 where there is none; counts are [clusters, labels].

    >>> as_labels(torch.tensor([0, 1, 2]), torch.tensor([[0, 9], [5, 2], [1, 0]]))
    tensor([ 1,  0, -1])
    """
    labels = torch.full(counts.shape[:1], -1)
    for cluster, label in matching(counts):
        labels[cluster] = label
    return labels[inferred.cpu()]


@lru_cache(maxsize=4)  # of one run: a tensor is equal to itself alone
def fitted_mixture(rows: Tensor, clusters: int, seed: int = 0, covariance: str = "full") -> GaussianMixture:
    """Fit scikit-learn's `GaussianMixture` to the rows of a table [n, columns], the best of ten starts.

    Missing values, NaN, are the means of the nearest rows that have them.

    Args:
        rows: of the table.
        clusters: how many components.
        seed: of the starts.
        covariance: `covariance_type`: full, tied or diag.
    """
    mixture = GaussianMixture(clusters, covariance_type=covariance, n_init=10, random_state=seed % 2**32)
    return mixture.fit(_complete(rows))


def chosen_mixture(rows: Tensor, clusters: int, seed: int = 0) -> GaussianMixture:
    """Return the fitted mixture whose covariances, full, tied or diagonal, have the least BIC (Schwarz, 1978).

    With few rows full covariances can fit a few rows each. Only the values that are known count: values filled in lie
    closer together than others.
    """
    x = _complete(rows)

    def bic(mixture: GaussianMixture) -> float:
        penalty = mixture.bic(x) + 2 * len(x) * mixture.score(x)
        return penalty - 2 * float(log_joint(mixture, rows).logsumexp(-1).sum())

    return min((fitted_mixture(rows, clusters, seed, covariance) for covariance in ("full", "tied", "diag")), key=bic)


@lru_cache(maxsize=4)
def standardised(rows: Tensor, columns: Any) -> Tensor:
    """Return rows as `ColumnInputs.standardised` does, once: fits to them are kept by what they were fitted to."""
    return columns.standardised(rows)


@lru_cache(maxsize=4)  # each fit to the rows asks for it
def _complete(rows: Tensor) -> np.ndarray:
    x = rows.double().cpu().numpy()
    if not np.isnan(x).any():
        return x
    few = np.random.default_rng(0).permutation(len(x))[:DONORS]
    return KNNImputer(keep_empty_features=True).fit(x[few]).transform(x)


def log_joint(mixture: GaussianMixture, x: Tensor) -> Tensor:
    """Return log p(component, x) of what is known of rows, [n, columns], NaN where missing: [n, components].

    >>> mixture = GaussianMixture(2, random_state=0).fit(np.array([[-9.0, 1], [-8, 2], [8, 1], [9, 2]]))
    >>> whole = torch.tensor([[-8.5, torch.nan]], dtype=torch.float64)
    >>> bool((log_joint(mixture, whole).logsumexp(-1) - mixture.score_samples([[-8.5, 1.5]])[0] < 0).all())
    True
    """
    return _log_joint(mixture, x.device, whole=not x.isnan().any())(x)


def _log_joint(mixture: GaussianMixture, device: torch.device, whole: bool) -> Callable[[Tensor], Tensor]:
    """Return `log_joint` of a mixture: of rows that are whole, or of any."""
    weights, loc, covariance, precision = (
        torch.from_numpy(array).to(device)
        for array in (mixture.weights_, mixture.means_, mixture.covariances_, mixture.precisions_)
    )
    if mixture.covariance_type == "diag":
        covariance, precision = covariance.diag_embed(), precision.diag_embed()
    if whole:
        components = MultivariateNormal(loc, precision_matrix=precision, validate_args=False)
        return lambda x: weights.log() + components.log_prob(x.double()[:, None])

    def of_known(x: Tensor) -> Tensor:
        rows = x.double()[:, None]
        known = ~rows.isnan()
        both = known[..., None] & known[..., None, :]
        scales = torch.where(both, covariance, torch.eye(x.shape[1]).to(covariance))  # of variance 1 where missing,
        components = MultivariateNormal(torch.zeros_like(loc), scales, validate_args=False)
        at_zero = 0.5 * math.log(2 * math.pi) * (~known).sum(-1)  # and at its mean, which is taken out again
        return weights.log() + components.log_prob(torch.where(known, rows - loc, 0.0)) + at_zero

    return of_known


def _more(clusters: int, rows: int) -> int:
    """How many components stand for groups that are bent."""
    return min(4 * clusters, rows // 10)


def _flexible(x: np.ndarray, components: int, seed: int, covariance: str = "full") -> GaussianMixture:
    """Fit a mixture that may have more components than its rows show: kept from shrinking onto single ones."""
    mixture = GaussianMixture(components, covariance_type=covariance, n_init=3, reg_covar=1e-3)
    return mixture.set_params(random_state=seed % 2**32).fit(x)


def needs_more_components(rows: Tensor, clusters: int, seed: int = 0) -> bool:
    """Return whether a mixture of four times as many components models held-out rows better: groups are bent then.

    A fifth of the rows is held out, and better is the mean of log p(x) by more than two standard errors.
    """
    x = _complete(rows)
    order = np.random.default_rng(seed).permutation(len(x))
    held_out, kept = x[order[: len(x) // 5]], x[order[len(x) // 5 :]]
    more = _more(clusters, len(kept))
    if more <= clusters or len(held_out) < 2:
        return False
    few, many = (_flexible(kept, k, seed).score_samples(held_out) for k in (clusters, more))
    gain = many - few
    return bool(gain.mean() > 2 * gain.std(ddof=1) / len(gain) ** 0.5)


def merged(posterior: Tensor, clusters: int) -> list[list[int]]:
    """Merge components into clusters, two at a time, each time those which leave the least entropy.

    Baudry, Raftery, Celeux, Lo and Gottardo, Combining mixture components for clustering, 2010.

    Args:
        posterior: p(component | x) of some rows: [n, components].
        clusters: how many are wanted.

    Returns:
        the components of each cluster.

    >>> merged(torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0], [0.4, 0.0, 0.6]]), clusters=2)
    [[0, 2], [1]]
    """
    groups = [[k] for k in range(posterior.shape[1])]
    while len(groups) > clusters:
        entropy = torch.special.entr(posterior).sum(0)
        left = torch.stack([torch.special.entr(each[:, None] + posterior).sum(0) for each in posterior.T])
        gain = (entropy[:, None] + entropy - left).fill_diagonal_(-math.inf)
        first, second = sorted(divmod(int(gain.argmax()), len(groups)))
        kept = [k for k in range(len(groups)) if k != second]
        both = posterior[:, [first]] + posterior[:, [second]]
        posterior = torch.cat([posterior[:, :first], both, posterior[:, first + 1 :]], 1)[:, kept]
        groups[first] += groups.pop(second)
    return groups


@lru_cache(maxsize=1)
def mixture_posterior(rows: Tensor, clusters: int, seed: int = 0) -> Callable[[Tensor], Tensor]:
    """Return log p(cluster | x), [batch, clusters], of a mixture fitted to rows: a function of x [batch, columns].

    Each component is a cluster, unless that leaves doubt about the rows and groups are bent: four times as many
    components, merged, make the clusters where they leave far less. Where no value of the rows is missing, none of x
    may be.

    >>> rows = torch.cat([torch.randn(50, 2) - 9, torch.randn(50, 2) + 9])
    >>> (mixture_posterior(rows, 2)(rows).exp().max(-1).values > 0.99).all()
    tensor(True)
    """
    few, whole = rows[:: -(-len(rows) // DONORS)], not rows.isnan().any()
    chosen, groups = chosen_mixture(rows, clusters, seed), [[k] for k in range(clusters)]
    doubt = _doubt(chosen, groups, few)
    if doubt > DOUBT and needs_more_components(rows, clusters, seed):
        x = _complete(rows)
        for covariance in ("full", "tied"):
            many = _flexible(x, _more(clusters, len(x)), seed, covariance)
            clusters_of = merged(log_joint(many, few).softmax(-1), clusters)
            if (least := _doubt(many, clusters_of, few)) < CLEARER * doubt:
                chosen, groups, doubt = many, clusters_of, least / CLEARER
    joint = _log_joint(chosen, rows.device, whole)
    return lambda x: _of_groups(joint(x), groups).log_softmax(-1).to(x)


def spectral_posterior(rows: Tensor, clusters: int, seed: int = 0) -> Callable[[Tensor], Tensor]:
    """Return log p(cluster | x), [batch, clusters], by the neighbours of x among clustered rows: a function of x.

    At most 10,000 of the rows are clustered as Ng, Jordan and Weiss do (On spectral clustering, 2002), on the graph of
    each one's ten nearest, but by half as many eigenvectors again as there are clusters, as a small group far from all
    else takes one too. p(cluster | x) is the share of the ten nearest of x, and of one more that is of each cluster
    alike.

    Args:
        rows: [n, columns], none missing.
        clusters: how many.
        seed: of the eigenvectors' start and of k-means.

    >>> angle, radius = 6.28 * torch.rand(600), torch.tensor([1.0, 3.0]).repeat(300)
    >>> rings = radius[:, None] * torch.stack([angle.cos(), angle.sin()], -1)
    >>> score(spectral_posterior(rings, 2)(rings).argmax(-1), torch.arange(600) % 2, 2)["accuracy"]
    1.0
    """
    few = rows[:: -(-len(rows) // LANDMARKS)]
    near = min(NEIGHBOURS, len(few) - 1)
    graph = kneighbors_graph(few.cpu().double().numpy(), near)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # groups may well be apart, and eigenvectors not quite converged
        vectors = spectral_embedding(
            (graph + graph.T) / 2,
            n_components=min(clusters + clusters // 2, len(few)),
            drop_first=False,
            eigen_solver="lobpcg",
            random_state=seed % 2**32,
        )
    assigned = KMeans(clusters, n_init=10, random_state=seed % 2**32).fit_predict(normalize(vectors))
    votes = torch.eye(clusters).to(few)[torch.as_tensor(assigned, dtype=torch.long, device=few.device)]

    def log_p(x: Tensor) -> Tensor:
        nearest = torch.cdist(x.to(few), few).topk(near, largest=False).indices
        return ((votes[nearest].sum(1) + 1 / clusters) / (near + 1)).log().to(x)

    return log_p


def _of_groups(log_joint: Tensor, groups: list[list[int]]) -> Tensor:
    return torch.stack([log_joint[:, group].logsumexp(-1) for group in groups], -1)


def _doubt(mixture: GaussianMixture, groups: list[list[int]], rows: Tensor) -> float:
    """The mean entropy of p(cluster | x), nats."""
    posterior = _of_groups(log_joint(mixture, rows), groups).softmax(-1)
    return float(torch.special.entr(posterior).sum(-1).mean())


def gaussian_mixture(
    train: Tensor, test: Tensor, labels: Tensor | None, clusters: int, *, seed: int = 0
) -> dict[str, Any]:
    """Score scikit-learn's `GaussianMixture`, fitted to a table, on test rows.

    Args:
        train, test: rows, [n, columns] and [m, columns].
        labels: of the test rows, [m], or None.
        clusters: how many components the mixture has.
        seed: of its starts.

    Returns:
        `score` of the likeliest component of each test row, and `log_likelihood`, nats per test row.

    >>> rows = torch.cat([torch.randn(50, 2) - 9, torch.randn(50, 2) + 9])
    >>> gaussian_mixture(rows, rows, torch.arange(100) // 50, clusters=2)["accuracy"]
    1.0
    """
    joint = log_joint(fitted_mixture(train, clusters, seed), test)
    return score(joint.argmax(-1), labels, clusters) | {"log_likelihood": float(joint.logsumexp(-1).mean())}
