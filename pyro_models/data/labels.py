"""A few labels, as if the others were not known."""

import torch

from pyro_models.base.errors import UserError
from pyro_models.base.seeds import derived_seed
from pyro_models.data.datasets import Split


def labelled(split: Split, count: int, kinds: int, *, seed: int, stratified: bool = True) -> Split:
    """Draw `count` data of a split, with their labels.

    Args:
        split: where from.
        count: how many.
        kinds: the labels are 0 to kinds - 1.
        seed: of the draw.
        stratified: whether each label comes as often as the others, or one time more or less.

    Raises:
        UserError: there are no labels or too few of them; one lies outside; fewer are wanted than there are kinds.
    """
    if split.labels is None:
        raise UserError(f"--labels {count}: the data have none")
    low, high = int(split.labels.min()), int(split.labels.max())
    if low < 0 or high >= kinds:
        raise UserError(f"--labels: the data are labelled {low} to {high}, --kinds {kinds} wants 0 to {kinds - 1}")
    if count < kinds:
        raise UserError(f"--labels {count} is fewer than --kinds {kinds}: at least one for each")
    if count > len(split):
        raise UserError(f"--labels {count} is more than the {len(split)} training data")
    generator = torch.Generator().manual_seed(derived_seed(seed, "labels"))
    order = torch.randperm(len(split), generator=generator)
    if stratified:
        labels = split.labels.cpu()[order]
        rank = torch.stack([(labels == kind).cumsum(0) for kind in range(kinds)]).gather(0, labels[None])[0]
        order = order[rank.argsort(stable=True)]  # the first of each kind, then the second of each, ...
    return split[order[:count].to(split.labels.device)]
