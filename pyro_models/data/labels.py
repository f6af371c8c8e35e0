"""Labels: checks, one-hot encoding, and the choice of the few that a semi-supervised model observes."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_models.base.errors import DataError
from pyro_models.base.seeds import derived_seed
from pyro_models.data.datasets import split_by_sklearn
from pyro_models.data.split import Split


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Encode labels 0 to classes - 1, [n], as one-hot rows of floats, [n, classes].

    >>> one_hot(torch.tensor([2, 0]), 3)
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    return F.one_hot(labels, classes).to(torch.get_default_dtype())


def check_labels(split: Split, classes: int) -> Tensor:
    """Return the labels of a split, [n], -1 where they are not known.

    Raises:
        DataError: the split has none, none is known, or one is not below `classes`.
    """
    known = split.labelled().labels
    if split.labels is None or known is None:
        raise DataError("`labels` are asked for, and the data have none: use labelled data, or leave `labels` out")
    if len(known) == 0:
        raise DataError("`labels` are asked for, and a split has none that is known: label more data")
    if (high := int(known.max())) >= classes:
        low = int(known.min())
        raise DataError(f"the data are labelled {low} to {high}, and {classes} classes are labelled 0 to {classes - 1}")
    return split.labels


def draw_labels(
    split: Split,
    count: int,
    classes: int | None,
    *,
    seed: int,
    how: Literal["stratified", "random", "article"] = "stratified",
) -> tuple[Split, Split]:
    """Draw the data of a split whose labels a semi-supervised model observes.

    >>> split = Split(torch.zeros(6, 1), labels=torch.tensor([0, 1, 0, 1, 0, 1]))
    >>> labelled, others = draw_labels(split, 2, 2, seed=0)
    >>> sorted(labelled.labels.tolist()), len(others)
    ([0, 1], 4)

    Args:
        split: labelled data; those whose label is not known, -1, are among the others.
        count: the number of data to draw.
        classes: the number of classes, whose labels are 0 to classes - 1; None: as many as the labels have.
        seed: of the draw.
        how: `stratified`, with equal numbers of each label, or numbers that differ by 1; `random`; or `article`, at
            random by scikit-learn's `train_test_split`, as in the article on virtual adversarial training.

    Returns:
        the `count` data, and the others in a random order.

    Raises:
        UserError: there are no labels, or fewer than `count`; a label is out of range; `count` is less than `classes`.
    """
    known = split.labelled().labels
    if classes is None:
        classes = 1 + int(known.max()) if known is not None and len(known) else 0
    all_labels = check_labels(split, classes)
    if count < classes:
        raise DataError(f"`labels` must be at least {classes}, one for each class, not {count}")
    if known is None or count > len(known):
        number = 0 if known is None else len(known)
        what = "training data" if number == len(split) else "training data whose label is known"
        raise DataError(f"`labels` must be at most the number of {what}, {number}, not {count}")
    if len(known) < len(split):
        unknown = split[all_labels < 0]
        chosen_data, rest = draw_labels(split.labelled(), count, classes, seed=seed, how=how)
        return chosen_data, rest.with_rows_of(unknown)
    if how == "article":
        order = torch.cat(split_by_sklearn(len(split), count, seed))
    else:
        generator = torch.Generator().manual_seed(derived_seed(seed, "labels"))
        order = torch.randperm(len(split), generator=generator)
    if how == "stratified":
        labels = all_labels.cpu()[order]
        rank = torch.stack([(labels == k).cumsum(0) for k in range(classes)]).gather(0, labels[None])[0]
        chosen = torch.zeros(len(order), dtype=torch.bool)
        chosen[rank.argsort(stable=True)[:count]] = True  # the first of each class, then the second of each, ...
        others = order[~chosen]  # shuffled again, as the chosen were taken from its start
        order = torch.cat([order[chosen], others[torch.randperm(len(others), generator=generator)]])
    order = order.to(all_labels.device)
    return split[order[:count]], split[order[count:]]
