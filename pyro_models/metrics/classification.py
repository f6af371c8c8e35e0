"""Classes that a guide infers, against the labels."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pyro.distributions import OneHotCategorical
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support
from torch import Tensor

from pyro_models.metrics.evaluation import eval_mode


def predict(classify: Callable[[Tensor], OneHotCategorical], batches: Iterable[Tensor]) -> Tensor:
    """Return the likeliest category under q(y | x) for each datum of some batches x: [n].

    Args:
        classify: a module, or a method of one, that returns q(y | x).
        batches: data [batch, *shape]; a generator runs within the evaluation's own noise.

    >>> predict(lambda x: OneHotCategorical(logits=x), [torch.eye(3), torch.eye(3)[:1]])
    tensor([0, 1, 2, 0])
    """
    with eval_mode(getattr(classify, "__self__", classify)):
        return torch.cat([classify(x).logits.argmax(-1) for x in batches])


def agreement(inferred: Tensor, labels: Tensor) -> dict[str, float]:
    """Compare inferred labels [n] with the true ones: `accuracy`, and `f1`, averaged over the classes (macro).

    Classes that no datum has do not count.

    >>> agreement(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 1]))["accuracy"]
    0.75
    """
    both = (labels.cpu().numpy(), inferred.cpu().numpy())
    f1 = f1_score(*both, average="macro", labels=labels.unique().cpu().numpy(), zero_division=0.0)
    return {"accuracy": float(accuracy_score(*both)), "f1": float(f1)}


def per_class(inferred: Tensor, labels: Tensor, classes: int) -> dict[str, list[Any]]:
    """Score each class: labels inferred [n] against the true ones [n].

    Returns:
        `precision`, `recall`, `f1` and `support` (how many data), a value for each class, 0 where it is undefined;
        `confusion`, counts by true label and inferred one.

    >>> scores = per_class(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 1]), classes=2)
    >>> scores["recall"], scores["confusion"]
    ([0.5, 1.0], [[1, 1], [0, 2]])
    """
    both = (labels.cpu().numpy(), inferred.cpu().numpy())
    values = precision_recall_fscore_support(*both, labels=range(classes), zero_division=0.0)
    named = zip(("precision", "recall", "f1", "support"), values, strict=True)
    counts = torch.bincount(labels.cpu() * classes + inferred.cpu(), minlength=classes**2).reshape(classes, classes)
    return {name: each.tolist() for name, each in named} | {"confusion": counts.tolist()}
