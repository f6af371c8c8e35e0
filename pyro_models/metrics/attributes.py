"""Images generated from attributes: do they show the attributes given, and do they vary in the others?

The three C's of Vedantam, Fischer, Huang and Murphy, Generative models of visually grounded imagination, 2018,
section 4: correctness and coverage here, and compositionality, which is the correctness of combinations that training
never saw (`split=compositional`).
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import combinations
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_models.base.names import PixelMode
from pyro_models.base.seeds import seed_noise
from pyro_models.data import Attribute, Dataset, Split, to_float
from pyro_models.metrics.evaluation import eval_mode
from pyro_models.nn import spatial_classifier

QUERIES = 240  # the most for each number of attributes given: all combinations of mnist-a


class Generate(Protocol):
    """From the attributes given, indices of values [n, attributes] with -1 where one is not given, to n images."""

    def __call__(self, values: Tensor, *, seed: int) -> Tensor:
        """Return images [n, *shape]; the seed decides their noise."""


class AttributeClassifier(nn.Module):
    """Predicts the attributes of an image: a small convolutional net with a logit for each value of each attribute.

    Args:
        shape: of an image.
        attributes: those to predict.
    """

    def __init__(self, shape: tuple[int, ...], attributes: tuple[Attribute, ...]):
        super().__init__()
        self.counts = [len(attribute.values) for attribute in attributes]
        self.network = spatial_classifier(shape, sum(self.counts))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the logits of each attribute's values, from images [batch, *image]."""
        return list(self.network(x).split(self.counts, dim=-1))

    def predict(self, x: Tensor, batch_size: int = 1000) -> Tensor:
        """Return the likeliest values, [n, attributes]."""
        with eval_mode(self):
            parts = [[logits.argmax(-1) for logits in self(part)] for part in x.split(batch_size)]
        return torch.cat([torch.stack(part, dim=-1) for part in parts])


def attribute_classifier(
    dataset: Dataset, pixels: PixelMode, *, steps: int | None = None, seed: int = 0
) -> AttributeClassifier:
    """Train a classifier of attributes, apart from any model, on `all_combinations` of the data or training images.

    Args:
        dataset: with attributes.
        pixels: the pixel mode.
        steps: of Adam, 128 images each; None takes two passes over the data, but at least 300 steps and at most 4,000.
        seed: of the first weights and of the order of the images.
    """
    train = dataset.all_combinations or dataset.train
    steps = steps or max(300, min(4000, len(train) // 64))
    values: Any = train.attributes
    with torch.random.fork_rng():
        seed_noise(seed, "attribute classifier")
        classifier = AttributeClassifier(dataset.shape, dataset.attributes).to(train.x.device)
        optimizer = torch.optim.Adam(classifier.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            batch = torch.randint(len(train), (128,), device=train.x.device)
            loss = torch.zeros((), device=train.x.device)
            for logits, targets in zip(classifier(to_float(train.x[batch], pixels)), values[batch].T, strict=True):
                loss = loss + F.cross_entropy(logits, targets, ignore_index=-1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return classifier


def queries(split: Split, given: int, most: int = QUERIES) -> Tensor:
    """Return each combination of values that `given` of the attributes have in a split, in a fixed random order.

    Args:
        split: with attributes.
        given: how many attributes a query gives.
        most: how many queries to return at most.

    Returns:
        indices of values [queries, attributes], -1 where an attribute is not given.

    >>> split = Split(torch.zeros(3, 1, 8, 8), attributes=torch.tensor([[0, 1], [0, 1], [2, 0]]))
    >>> sorted(queries(split, 1).tolist())
    [[-1, 0], [-1, 1], [0, -1], [2, -1]]
    """
    values: Any = split.attributes
    parts = []
    for chosen in combinations(range(values.shape[1]), given):
        known = values[(values[:, chosen] >= 0).all(1)]
        combination = torch.full_like(known, -1)
        combination[:, chosen] = known[:, chosen]
        parts.append(combination.unique(dim=0))
    every = torch.cat(parts)
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))[:most]
    return every[order.to(every.device)]


def correctness(given: Tensor, predicted: Tensor) -> float:
    """Return the share of the attributes given that a classifier predicts from the images.

    Args:
        given: indices of values [queries, attributes], -1 where an attribute is not given.
        predicted: from the n images of each query, [queries, n, attributes].

    >>> correctness(torch.tensor([[0, -1]]), torch.tensor([[[0, 1], [0, 0], [1, 1], [0, 1]]]))
    0.75
    """
    is_given = (given >= 0)[:, None].expand_as(predicted)
    return float((predicted == given[:, None])[is_given].double().mean())


def coverage(given: Tensor, predicted: Tensor, train: Tensor) -> float:
    """Return 1 less the mean Jensen-Shannon divergence, in bits, of the attributes that are not given.

    The divergence is between the frequencies of values that a classifier predicts from the images of a query, and those
    of the training data that have the values given. With few images for each query even a perfect model stays below 1.
    Attributes of which no training value is known are left out.

    Args:
        given: indices of values [queries, attributes], -1 where an attribute is not given.
        predicted: from the n images of each query, [queries, n, attributes].
        train: of the training data, [m, attributes], -1 where missing.

    >>> given, train = torch.tensor([[0, -1]]), torch.tensor([[0, 0], [0, 1], [1, 1]])
    >>> coverage(given, torch.tensor([[[0, 1], [0, 0]]]), train)
    1.0
    """
    overlaps = []
    for query, images in zip(given, predicted, strict=True):
        alike = train[((train == query) | (query < 0)).all(1)]
        for k in (query < 0).nonzero()[:, 0].tolist():
            expected = alike if (alike[:, k] >= 0).any() else train
            if not (expected[:, k] >= 0).any():
                continue
            count = int(max(train[:, k].max(), images[:, k].max())) + 1
            p, q = (frequencies(values[:, k], count) for values in (expected, images))
            overlaps.append(1.0 - jensen_shannon(p, q))
    return sum(overlaps) / len(overlaps) if overlaps else 1.0


def frequencies(values: Tensor, count: int) -> Tensor:
    """Return the relative frequency of each of `count` values, among those that are known (not -1): [count]."""
    counts = torch.bincount(values[values >= 0], minlength=count).double()
    return counts / counts.sum()


def jensen_shannon(p: Tensor, q: Tensor) -> float:
    """Return the Jensen-Shannon divergence of two distributions over values, [values] each, in bits: from 0 to 1."""
    entropy_p, entropy_q, entropy_mean = (-torch.special.xlogy(r, r).sum() for r in (p, q, (p + q) / 2))
    return float(entropy_mean - (entropy_p + entropy_q) / 2) / math.log(2)


def three_cs(dataset: Dataset, pixels: PixelMode, generate: Generate) -> dict[str, dict[str, float]]:
    """Judge images generated from the attributes of the validation and test splits by a classifier trained here.

    A query that gives all attributes gets 10 images and any other 100; more where all queries together get below 2,000.

    Args:
        dataset: with attributes.
        pixels: the pixel mode of the images that are generated.
        generate: the images, from attributes.

    Returns:
        For `validation` and `test`: `correctness` with all attributes given, `correctness_N` and `coverage_N` with N
        of them, their mean `coverage`, and `classifier_accuracy`, the share of the split's attributes that the
        classifier predicts rightly from its images.
    """
    classifier = attribute_classifier(dataset, pixels)
    names = ("test", "validation")
    return {
        name: _judged(dataset, dataset.parts[name], pixels, partial(generate, seed=seed), classifier)
        for seed, name in enumerate(names)
    }


def _judged(
    dataset: Dataset,
    split: Split,
    pixels: PixelMode,
    generate: Callable[[Tensor], Tensor],
    classifier: AttributeClassifier,
) -> dict[str, float]:
    """Judge the images generated from the attributes of one split: see `three_cs`."""
    attributes, values = dataset.attributes, split.attributes
    with eval_mode(classifier):
        predicted_values = torch.cat([classifier.predict(to_float(part, pixels)) for part in split.x.split(10_000)])
    scores = {"classifier_accuracy": float((predicted_values == values)[values >= 0].double().mean())}  # type: ignore[operator,index]
    for given in range(len(attributes), 0, -1):
        is_all = given == len(attributes)
        conditions = queries(split, given)
        if not len(conditions):
            continue
        images = max(10 if is_all else 100, 2000 // len(conditions))
        predicted = torch.cat(
            [  # so that the images of a few queries are in memory at a time
                classifier.predict(generate(part.repeat_interleave(images, 0))).unflatten(0, (-1, images))
                for part in conditions.split(100)
            ]
        )
        scores["correctness" if is_all else f"correctness_{given}"] = correctness(conditions, predicted)
        if not is_all:
            scores[f"coverage_{given}"] = coverage(conditions, predicted, dataset.train.attributes)  # type: ignore[arg-type]
    covered = [value for name, value in scores.items() if name.startswith("coverage_")]
    return scores | ({"coverage": sum(covered) / len(covered)} if covered else {})
