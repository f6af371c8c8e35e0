"""Kinds that a guide infers, scored against labels."""

from typing import Any

import torch
from torch import Tensor, nn

from pyro_models.base.names import PixelMode
from pyro_models.data import Dataset, Split, to_float
from pyro_models.metrics.evaluation import evaluation

SCORES = {
    "accuracy": "share of data, kinds matched to labels one to one",
    "f1": "mean over labels of the harmonic mean of precision and recall",
    "purity": "share of data, each kind given its commonest label",
    "nmi": "normalised mutual information of kinds and labels, 0 to 1",
    "ari": "adjusted Rand index of kinds and labels, at most 1",
    "kinds_used": "kinds that at least a tenth of an even share of the data falls to",
}


def infer_kinds(guide: nn.Module, split: Split, pixels: PixelMode, batch_size: int = 1000) -> Tensor:
    """Return the likeliest kind under q(y | x) for each datum of a split: [n]."""
    with evaluation(guide):
        parts = [guide.classify(to_float(part, pixels)).logits.argmax(-1) for part in split.x.split(batch_size)]  # type: ignore[operator]
    return torch.cat(parts)


def confusion(inferred: Tensor, labels: Tensor, kinds: int) -> Tensor:
    """Count the data of each kind and label: [kinds, labels]."""
    width = max(int(labels.max()) + 1, 1)
    return torch.bincount(inferred.cpu() * width + labels.cpu(), minlength=kinds * width).reshape(kinds, width)


def matching(counts: Tensor) -> list[tuple[int, int]]:
    """Match kinds to labels one to one so that most of the data counted agree (the Hungarian method), by label."""
    from scipy.optimize import linear_sum_assignment

    pairs = zip(*linear_sum_assignment(counts.numpy(), maximize=True), strict=True)
    return sorted(((int(kind), int(label)) for kind, label in pairs), key=lambda pair: pair[1])


def used(inferred: Tensor, kinds: int) -> Tensor:
    """Say of each kind whether at least a tenth of an even share of the data falls to it: [kinds]."""
    return torch.bincount(inferred.cpu(), minlength=kinds) >= 0.1 * len(inferred) / kinds


def score(inferred: Tensor, labels: Tensor | None, kinds: int, *, named: bool = False) -> dict[str, float]:
    """Score inferred kinds [n] against labels [n].

    Args:
        inferred: whole numbers below `kinds`.
        labels: what the data are; None leaves all but `kinds_used` out.
        kinds: how many there are.
        named: whether kind k was taught to be label k; `accuracy` then is the share of data where they agree.

    Returns:
        `accuracy`, `f1`, `purity`, `nmi`, `ari`, `kinds_used`: see `SCORES`.
    """
    figures = {"kinds_used": float(used(inferred, kinds).sum())}
    if labels is None:
        return figures
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    if not named:
        labels = labels.unique(return_inverse=True)[1]  # whatever whole numbers they are
    counts = confusion(inferred, labels, kinds)
    both = (labels.cpu().numpy(), inferred.cpu().numpy())
    return {
        **agreement(inferred if named else named_after(inferred, counts), labels),
        "purity": int(counts.max(1).values.sum()) / len(labels),
        "nmi": float(normalized_mutual_info_score(*both)),
        "ari": float(adjusted_rand_score(*both)),
    } | figures


def named_after(inferred: Tensor, counts: Tensor) -> Tensor:
    """Rename kinds [n] to the labels that they match; a kind without one gets -1. Counts are [kinds, labels]."""
    names = torch.full(counts.shape[:1], -1)
    for kind, label in matching(counts):
        names[kind] = label
    return names[inferred.cpu()]


def agreement(inferred: Tensor, labels: Tensor) -> dict[str, float]:
    """Compare labels that were inferred, [n], with the true ones: `accuracy` and `f1` (macro)."""
    from sklearn.metrics import accuracy_score, f1_score

    both = (labels.cpu().numpy(), inferred.cpu().numpy())
    f1 = f1_score(*both, average="macro", labels=labels.unique().cpu().numpy(), zero_division=0.0)
    return {"accuracy": float(accuracy_score(*both)), "f1": float(f1)}


def per_class(inferred: Tensor, labels: Tensor, kinds: int) -> dict[str, list[Any]]:
    """Tell how each class came out, labels inferred [n] against the true ones [n].

    Returns:
        `precision`, `recall`, `f1` and `support` (how many data), a value a class; `confusion`, counts by true label
        and inferred one.
    """
    from sklearn.metrics import precision_recall_fscore_support

    both = (labels.cpu().numpy(), inferred.cpu().numpy())
    values = precision_recall_fscore_support(*both, labels=range(kinds), zero_division=0.0)
    named = zip(("precision", "recall", "f1", "support"), values, strict=True)
    counts = torch.bincount(labels.cpu() * kinds + inferred.cpu(), minlength=kinds**2).reshape(kinds, kinds)
    return {name: each.tolist() for name, each in named} | {"confusion": counts.tolist()}


def gaussian_mixture(dataset: Dataset, kinds: int, seed: int) -> dict[str, Any]:
    """Fit scikit-learn's `GaussianMixture` to the training rows of a table, and score it on the test rows.

    Returns:
        the scores, and `log_likelihood`, nats per row.
    """
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(kinds, n_init=10, random_state=seed % 2**32).fit(dataset.train.x.double().cpu().numpy())
    test = dataset.test.x.double().cpu().numpy()
    inferred = torch.from_numpy(mixture.predict(test))
    return score(inferred, dataset.test.labels, kinds) | {"log_likelihood": float(mixture.score(test))}
