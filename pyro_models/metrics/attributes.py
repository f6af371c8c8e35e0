"""Images generated from attributes: are they right, do they vary, and do new combinations work?

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
from pyro_models.base.seeds import derived_seed
from pyro_models.data import Attribute, Dataset, Split, to_float
from pyro_models.metrics.evaluation import eval_mode
from pyro_models.nn import spatial_classifier

QUERIES = 240  # at most, for each number of attributes given; all combinations of mnist-a


class Generate(Protocol):
    """From attributes to condition on, indices [n, attributes] with -1 where one is not given, to n images."""

    def __call__(self, values: Tensor, *, seed: int) -> Tensor:
        """Return the images [n, *shape], drawn by the seed."""


class AttributeClassifier(nn.Module):
    """The attributes that an image shows: a small convolutional net with an output for each value of each attribute.

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
    """Train a classifier of the attributes, on the data set's `judges` or training images, apart from any model.

    Args:
        dataset: with attributes.
        pixels: the pixel mode.
        steps: of 128 images; None takes 300 to 4,000 of them, two passes over the data in between.
        seed: of weights and order.
    """
    train = dataset.judges or dataset.train
    steps = steps or max(300, min(4000, len(train) // 64))
    codes: Any = train.attributes
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(seed, "attribute classifier"))
        classifier = AttributeClassifier(dataset.shape, dataset.attributes).to(train.x.device)
        optimizer = torch.optim.Adam(classifier.parameters(), lr=2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            some = torch.randint(len(train), (128,), device=train.x.device)
            loss = torch.zeros((), device=train.x.device)
            for logits, values in zip(classifier(to_float(train.x[some], pixels)), codes[some].T, strict=True):
                loss = loss + F.cross_entropy(logits, values, ignore_index=-1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return classifier


def queries(split: Split, given: int, most: int = QUERIES) -> Tensor:
    """Return the combinations of `given` attributes that a split has, [queries, attributes]; -1 where none is given.

    Of more than `most` a fixed draw is taken.
    """
    codes: Any = split.attributes
    found = []
    for chosen in combinations(range(codes.shape[1]), given):
        known = codes[(codes[:, chosen] >= 0).all(1)]
        some = torch.full_like(known, -1)
        some[:, chosen] = known[:, chosen]
        found.append(some.unique(dim=0))
    whole = torch.cat(found)
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))[:most]
    return whole[order.to(whole.device)]


def correctness(asked: Tensor, shown: Tensor) -> float:
    """Return the share of what is asked for, [queries, attributes], that images show, [queries, n, attributes]."""
    given = (asked >= 0)[:, None].expand_as(shown)
    return float((shown == asked[:, None])[given].double().mean())


def coverage(asked: Tensor, shown: Tensor, train: Tensor) -> float:
    """Return 1 less the mean Jensen-Shannon divergence, in bits, of the attributes that were not asked for.

    The divergence is between how often images [queries, n, attributes] show each value, and how often the training
    data [m, attributes] do that have the attributes asked for, [queries, attributes]. With few images a query even a
    perfect model stays below 1. Attributes of which training knows no value are left out.
    """
    overlaps = []
    for query, images in zip(asked, shown, strict=True):
        alike = train[((train == query) | (query < 0)).all(1)]
        for k in (query < 0).nonzero()[:, 0].tolist():
            of = alike if (alike[:, k] >= 0).any() else train
            if not (of[:, k] >= 0).any():
                continue
            count = int(max(train[:, k].max(), images[:, k].max())) + 1
            p, q = (frequencies(values[:, k], count) for values in (of, images))
            overlaps.append(1.0 - jensen_shannon(p, q))
    return sum(overlaps) / len(overlaps) if overlaps else 1.0


def frequencies(values: Tensor, count: int) -> Tensor:
    """Return how often each of `count` values occurs, as shares of those that are known: [count]."""
    counts = torch.bincount(values[values >= 0], minlength=count).double()
    return counts / counts.sum()


def jensen_shannon(p: Tensor, q: Tensor) -> float:
    """Return the Jensen-Shannon divergence of two categories, [kinds] each, in bits: between 0 and 1."""
    of_p, of_q, of_both = (-torch.special.xlogy(share, share).sum() for share in (p, q, (p + q) / 2))  # entropies
    return float(of_both - (of_p + of_q) / 2) / math.log(2)


def three_cs(dataset: Dataset, pixels: PixelMode, generate: Generate) -> dict[str, dict[str, float]]:
    """Judge the images generated for the attributes of the validation and test splits, by a classifier trained here.

    A query that gives all attributes gets 10 images, one that leaves some open 100; few queries share 2,000.

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
    """Judge the images generated for the attributes of one split: see `three_cs`."""
    attributes, values = dataset.attributes, split.attributes
    with eval_mode(classifier):
        seen = torch.cat([classifier.predict(to_float(part, pixels)) for part in split.x.split(10_000)])
    scores = {"classifier_accuracy": float((seen == values)[values >= 0].double().mean())}  # type: ignore[operator,index]
    for given in range(len(attributes), 0, -1):
        whole = given == len(attributes)
        asked = queries(split, given)
        if not len(asked):
            continue
        images = max(10 if whole else 100, 2000 // len(asked))
        shown = torch.cat(
            [  # so that the images of a few queries are in memory at a time
                classifier.predict(generate(part.repeat_interleave(images, 0))).unflatten(0, (-1, images))
                for part in asked.split(100)
            ]
        )
        name = "correctness" if whole else f"correctness_{given}"
        scores[name] = correctness(asked, shown)
        if not whole:
            scores[f"coverage_{given}"] = coverage(asked, shown, dataset.train.attributes)  # type: ignore[arg-type]
    covered = [value for name, value in scores.items() if name.startswith("coverage_")]
    return scores | ({"coverage": sum(covered) / len(covered)} if covered else {})
