"""Test statistics: plain functions from data, [n, *shape], to a number for each datum, [n], or one for the set, []."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pyro.distributions import Categorical, ExpandedDistribution, Independent, MaskedDistribution, constraints
from torch import Tensor

from pyro_models.base.errors import UserError
from pyro_models.base.names import imported
from pyro_models.checking.replicates import is_binary

COLUMNS = 20
Statistic = Callable[..., Tensor]
"""From data [n, *shape] to a number for each datum, [n], or to one for all of them, []; a discrepancy takes the latents
by site as its second argument."""


def ink(x: Tensor) -> Tensor:
    """Return the mean intensity of each image: [n]."""
    return x.flatten(1).mean(1)


def centre(x: Tensor, axis: int) -> Tensor:
    """Return how far right of the middle (axis -1), or below it (-2), the centre of mass is, in pixels: [n].

    It is 0 for a blank image.
    """
    profile = _grey(x).sum(-3 - axis)
    positions = torch.arange(profile.shape[1]).to(profile) - (profile.shape[1] - 1) / 2
    return profile @ positions / profile.sum(1).clamp(min=1e-6)


def stroke_width(x: Tensor) -> Tensor:
    """Return twice the area of the ink by its perimeter, in pixels, above one half of intensity; 0 where blank: [n].

    This is the width of thin strokes. The perimeter is counted in squares of two by two pixels, by how many are ink,
    and cuts corners (Pratt, Digital Image Processing, 2007, section 18.2, after Gray, 1971, and Duda).
    """
    black = F.pad(_black(x), (1, 1, 1, 1))
    corner, opposite = black[:, :-1, :-1], black[:, 1:, 1:]
    count = corner + opposite + black[:, 1:, :-1] + black[:, :-1, 1:]
    across = (count == 2) & (corner == opposite)
    straight = (count == 2) & ~across
    edges = straight + ((count == 1) | (count == 3)) / math.sqrt(2) + across * math.sqrt(2)
    return 2 * black.flatten(1).sum(1) / edges.flatten(1).sum(1).clamp(min=1)


def holes(x: Tensor) -> Tensor:
    """Return how many parts of the background the ink encloses, above one half of intensity: [n].

    Ink is connected across corners too, the background along edges alone.

    >>> ring = torch.tensor([[1.0, 1, 1], [1, 0, 1], [1, 1, 1]])
    >>> holes(torch.stack([ring, torch.ones(3, 3)])[:, None])
    tensor([1., 0.])
    """
    from scipy.ndimage import generate_binary_structure, label

    background = F.pad(1 - _black(x), (1, 1, 1, 1), value=1.0)
    structure = np.zeros((3, 3, 3))
    structure[1] = generate_binary_structure(2, 1)  # within an image, and not from one to the next
    labels, _ = label(background.cpu().numpy(), structure)
    last = labels.reshape(len(x), -1).max(1)  # labels count up from image to image
    return torch.from_numpy(np.diff(last, prepend=0) - 1).to(x)


def symmetry(x: Tensor) -> Tensor:
    """Return the share of the ink that each image has in common with its mirror image, left to right: [n].

    It is 0 for a blank image.
    """
    grey = _grey(x)
    return torch.minimum(grey, grey.flip(-1)).flatten(1).sum(1) / grey.flatten(1).sum(1).clamp(min=1e-6)


def _grey(x: Tensor) -> Tensor:
    """Average over channels, without the negative intensities that a Normal draws: [n, height, width]."""
    return x.mean(1).clamp(min=0)


def _black(x: Tensor) -> Tensor:
    return (x.mean(1) > 0.5).to(x)


def nearest(train: Tensor, batch_size: int = 1000) -> Statistic:
    """Return the statistic: the distance of each datum to the nearest of the training data [m, *shape].

    It is small where a model copies training data.

    >>> nearest(torch.tensor([[0.0, 0.0], [9.0, 9.0]]))(torch.tensor([[3.0, 4.0], [9.0, 9.0]]))
    tensor([5., 0.])
    """
    rows = train.flatten(1)
    return lambda x: torch.cat([torch.cdist(part.flatten(1), rows).amin(1) for part in x.split(batch_size)])


def distance_to_training(summary: Statistic, train: Tensor) -> Statistic:
    """Return the statistic: root mean square difference of a summary, of any shape, from that of training data."""
    expected = summary(train)
    return lambda x: (summary(x) - expected).square().mean().sqrt()


def correlations(x: Tensor) -> Tensor:
    """Return the correlations of the columns of a table, 0 for a constant column: [columns, columns].

    What is missing, NaN, is at the mean of its column, in data and replicates alike.
    """
    return x.where(~x.isnan(), x.nanmean(0)).T.corrcoef().nan_to_num()


def moment(x: Tensor, order: int) -> Tensor:
    """Return the standardised moment of numbers [n]: order 3 is their skewness, 4 their kurtosis (3 for a Normal).

    >>> moment(torch.tensor([-1.0, 0.0, 1.0]), order=3)
    tensor(0.)
    """
    return ((x - x.mean()) / x.std(correction=0).clamp(min=1e-12)).pow(order).mean()


def share_outside(x: Tensor, low: float, high: float) -> Tensor:
    """Return the share of numbers [n] that lie outside two bounds."""
    return ((x < low) | (x > high)).double().mean()


def column_statistic(index: int, statistic: Statistic) -> Statistic:
    """Return the statistic of a single column, [n]."""
    return lambda x: statistic(x[:, index])


def image_statistics(train: Tensor) -> dict[str, Statistic]:
    """Return statistics of images by name, given training images [m, channel, height, width]."""
    return {
        "ink": ink,
        "centre, right": partial(centre, axis=-1),
        "centre, down": partial(centre, axis=-2),
        "stroke width": stroke_width,
        "holes": holes,
        "symmetry": symmetry,
        f"distance to the nearest of {len(train)} training images": nearest(train),
        "distance of pixel means to training": distance_to_training(partial(torch.mean, dim=0), train),
    }


def table_statistics(train: Tensor, columns: Sequence[str]) -> dict[str, Statistic]:
    """Return statistics of a table by name, given training rows [m, columns]: moments, tails, correlations."""
    statistics: dict[str, Statistic] = {}
    tails = train.nanquantile(torch.tensor([0.05, 0.95]).to(train), dim=0).T.tolist()
    for k, (name, (low, high)) in enumerate(zip(columns, tails, strict=True)):
        of_column: dict[str, Statistic] = {
            name: torch.clone,
            f"{name}, skewness": partial(moment, order=3),
            f"{name}, kurtosis": partial(moment, order=4),
            f"{name}, share outside training's 5 to 95 %": partial(share_outside, low=low, high=high),
        }
        if train[:, k].isnan().any():  # a number for each row is none where it is missing
            of_column |= {name: torch.mean, f"{name}, sd": torch.std}
        statistics |= {title: column_statistic(k, _of_present(each)) for title, each in of_column.items()}
    statistics["distance of correlations to training"] = distance_to_training(correlations, train)
    if train.isnan().any():  # how far a row is depends on how much of it is known
        return statistics
    return statistics | {f"distance to the nearest of {len(train)} training rows": nearest(train)}


def dispersion(x: Tensor) -> Tensor:
    """Return the variance of counts [n] by their mean, 1 for a Poisson; NaN where all are 0.

    >>> dispersion(torch.tensor([0.0, 2.0, 4.0]))
    tensor(2., dtype=torch.float64)
    """
    return x.double().var() / x.double().mean()


def share_of(x: Tensor, value: float) -> Tensor:
    """Return the share of numbers [n] that equal a value."""
    return (x == value).double().mean()


def autocorrelation(x: Tensor) -> Tensor:
    """Return the correlation of numbers [n] with those before them; NaN where they are constant.

    >>> autocorrelation(torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])).round(decimals=2)
    tensor(-0.8300, dtype=torch.float64)
    """
    deviation = x.double() - x.double().mean()
    return (deviation[1:] * deviation[:-1]).sum() / deviation.square().sum()


def trend(x: Tensor) -> Tensor:
    """Return the correlation of numbers [n] with their positions; NaN where they are constant.

    >>> trend(torch.tensor([3.0, 2.0, 1.0]))
    tensor(-1., dtype=torch.float64)
    """
    return torch.stack([x.double(), torch.arange(len(x)).to(x).double()]).corrcoef()[0, 1]


def coefficient_of_variation(x: Tensor) -> Tensor:
    """Return the standard deviation of positive numbers [n] by their mean, 1 for an Exponential."""
    return x.double().std() / x.double().mean()


def count_statistics() -> dict[str, Statistic]:
    """Return statistics of counts [n] by name; overdispersion shows in the second and the third."""
    return {
        "mean": lambda x: x.double().mean(),
        "variance / mean": dispersion,
        "share of zeros": partial(share_of, value=0),
        "largest": torch.max,
    }


def duration_statistics() -> dict[str, Statistic]:
    """Return statistics of positive numbers [n], as times, by name; the last two are of their order."""
    shape: dict[str, Statistic] = {"mean": torch.mean, "sd / mean": coefficient_of_variation}
    return shape | {"smallest": torch.min, "largest": torch.max} | order_statistics()


def number_statistics() -> dict[str, Statistic]:
    """Return statistics of numbers [n] by name: moments, extremes and order."""
    moments: dict[str, Statistic] = {
        "": torch.clone,
        "skewness": partial(moment, order=3),
        "kurtosis": partial(moment, order=4),
    }
    return moments | {"smallest": torch.min, "largest": torch.max} | order_statistics()


def order_statistics() -> dict[str, Statistic]:
    """Return statistics by name of the order that numbers [n] come in, such as times."""
    return {"autocorrelation at lag 1": autocorrelation, "trend": trend}


def category_statistics(values: Tensor) -> dict[str, Statistic]:
    """Return the share of each of the categories 0, 1, ... up to the largest among values [n]."""
    return {f"share of {k}": partial(share_of, value=k) for k in range(int(values.max()) + 1)}


def statistics_of(values: Mapping[str, Tensor], likelihoods: Mapping[str, Any]) -> dict[str, dict[str, Statistic]]:
    """Return statistics for each observed site that suit its values and need no data to compare with.

    Shares of categories under a Categorical, statistics of counts and of durations under distributions of such numbers,
    those of numbers under any other; of vectors they are of each of the first 20 dimensions, over all data.

    Args:
        values: the data by site, [n, *shape] each.
        likelihoods: by site, the distribution of its values.

    >>> import pyro.distributions as dist
    >>> list(statistics_of({"y": torch.tensor([0, 3])}, {"y": dist.Poisson(torch.ones(2))})["y"])
    ['mean', 'variance / mean', 'share of zeros', 'largest']
    """
    return {site: _in_columns(x, _of_support(x, likelihoods[site])) for site, x in values.items()}


def _of_support(values: Tensor, likelihood: Any) -> dict[str, Statistic]:
    """Return the statistics of numbers [n] of one distribution."""
    while isinstance(likelihood, Independent | MaskedDistribution | ExpandedDistribution):
        likelihood = likelihood.base_dist
    support = getattr(likelihood, "support", None)
    if is_binary(values):
        return {"share of 1": partial(share_of, value=1)}
    if isinstance(likelihood, Categorical):
        return category_statistics(values[~values.isnan()])
    if getattr(support, "is_discrete", False):
        return count_statistics()
    if isinstance(support, type(constraints.positive) | type(constraints.nonnegative)) and support.lower_bound == 0:
        return duration_statistics()
    return number_statistics()


def _in_columns(values: Tensor, statistics: Mapping[str, Statistic]) -> dict[str, Statistic]:
    """Return statistics of numbers [n] for each of the first 20 dimensions of data [n, *shape]."""
    if values.ndim == 0:
        return {"value": lambda x: x.double()}
    if values.ndim == 1:
        return {name or "value": _of_present(statistic) for name, statistic in statistics.items()}
    return {
        f"[{k}], {name}" if name else f"[{k}]": partial(_of_column, index=k, statistic=_of_present(statistic))
        for k in range(min(values[0].numel(), COLUMNS))
        for name, statistic in statistics.items()
    }


def _of_column(x: Tensor, index: int, statistic: Statistic) -> Tensor:
    return statistic(x.flatten(1)[:, index])


def _of_present(statistic: Statistic) -> Statistic:
    """Return the statistic of the numbers that are not missing."""
    return lambda x: statistic(x[~x.isnan()])


def standard_statistics(
    train: Mapping[str, Tensor], names: Mapping[str, Sequence[str]], likelihoods: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Statistic]]:
    """Return statistics for each site that suit its values: images, a table, counts, or categories.

    Args:
        train: training data by site: images [m, channel, height, width], rows [m, columns], or bits or one-hot
            categories [m, size].
        names: of the columns or categories of each site; numbers where there are none.
        likelihoods: by site, the distribution of its values, where it is known: see `statistics_of`.

    >>> list(standard_statistics({"y": torch.eye(2)}, {"y": ["left", "right"]})["y"])
    ['share of left', 'share of right']
    """
    statistics: dict[str, dict[str, Statistic]] = {}
    for site, values in train.items():
        each = names.get(site) or [f"{site}={k}" for k in range(values[0].numel())]
        if values.ndim == 4:
            statistics[site] = image_statistics(values)
        elif values.ndim != 2 or not values.is_floating_point():
            statistics |= statistics_of({site: values}, likelihoods or {site: None})
        elif is_binary(values):
            statistics[site] = {f"share of {name}": column_statistic(k, torch.nanmean) for k, name in enumerate(each)}
        elif getattr(getattr((likelihoods or {}).get(site), "support", None), "is_discrete", False):
            of_values = _of_support(values, (likelihoods or {})[site])
            statistics[site] = {
                f"{column}, {name}": column_statistic(k, _of_present(statistic))
                for k, column in enumerate(each)
                for name, statistic in of_values.items()
            }
        else:
            statistics[site] = table_statistics(values, each)
    return statistics


def load_statistic(spec: str) -> Statistic:
    """Import a statistic by MODULE:FUNCTION.

    Raises:
        UserError: there is none.

    >>> load_statistic("pyro_models.checking.statistics:ink").__name__
    'ink'
    """
    statistic: Statistic = imported(spec, "statistic", "FUNCTION")
    if not callable(statistic):
        raise UserError(f"`statistic={spec}` is not a function; give MODULE:FUNCTION")
    return statistic
