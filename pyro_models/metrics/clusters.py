"""Clusters that a guide infers, scored against labels."""

from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture
from torch import Tensor

from pyro_models.metrics.classification import agreement


def contingency(inferred: Tensor, labels: Tensor, clusters: int) -> Tensor:
    """Count the data of each cluster and label: [clusters, labels]."""
    width = max(int(labels.max()) + 1, 1)
    counts = torch.bincount(inferred.cpu() * width + labels.cpu(), minlength=clusters * width)
    return counts.reshape(clusters, width)


def matching(counts: Tensor) -> list[tuple[int, int]]:
    """Match clusters to labels one to one so that most of the data agree (the Hungarian method), ordered by label.

    Args:
        counts: [clusters, labels].
    """
    pairs = zip(*linear_sum_assignment(counts.numpy(), maximize=True), strict=True)
    return sorted(((int(cluster), int(label)) for cluster, label in pairs), key=lambda pair: pair[1])


def used(inferred: Tensor, clusters: int) -> Tensor:
    """Return for each cluster whether at least a tenth of an even share of the data falls to it: [clusters]."""
    return torch.bincount(inferred.cpu(), minlength=clusters) >= 0.1 * len(inferred) / clusters


def score(inferred: Tensor, labels: Tensor | None, clusters: int, *, named: bool = False) -> dict[str, float]:
    """Score inferred clusters [n] against labels [n].

    Args:
        inferred: whole numbers below `clusters`.
        labels: what the data are; None leaves all but `clusters_used` out.
        clusters: how many there are.
        named: whether cluster k was trained to be label k; `accuracy` then is the share of data where they agree.

    Returns:
        `accuracy` and `f1` with clusters matched to labels one to one (unless `named`), `purity` (the share of data
        with the commonest label of their cluster), `nmi` and `ari` (normalised mutual information, adjusted Rand
        index), `clusters_used`.
    """
    scores = {"clusters_used": float(used(inferred, clusters).sum())}
    if labels is None:
        return scores
    if not named:
        labels = labels.unique(return_inverse=True)[1]  # whatever whole numbers they are
    counts = contingency(inferred, labels, clusters)
    both = (labels.cpu().numpy(), inferred.cpu().numpy())
    return {
        **agreement(inferred if named else as_labels(inferred, counts), labels),
        "purity": int(counts.max(1).values.sum()) / len(labels),
        "nmi": float(normalized_mutual_info_score(*both)),
        "ari": float(adjusted_rand_score(*both)),
    } | scores


def as_labels(inferred: Tensor, counts: Tensor) -> Tensor:
    """Replace clusters [n] by the labels that they match, -1 where there is none; counts are [clusters, labels]."""
    names = torch.full(counts.shape[:1], -1)
    for cluster, label in matching(counts):
        names[cluster] = label
    return names[inferred.cpu()]


def gaussian_mixture(
    train: Tensor, test: Tensor, labels: Tensor | None, clusters: int, *, seed: int = 0
) -> dict[str, Any]:
    """Fit scikit-learn's `GaussianMixture` to training rows [n, columns], and score it on test rows and their labels.

    Returns:
        the scores, and `log_likelihood`, nats per row.
    """
    mixture = GaussianMixture(clusters, n_init=10, random_state=seed % 2**32).fit(train.double().cpu().numpy())
    rows = test.double().cpu().numpy()
    inferred = torch.from_numpy(mixture.predict(rows))
    return score(inferred, labels, clusters) | {"log_likelihood": float(mixture.score(rows))}
