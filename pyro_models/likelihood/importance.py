"""The evidence, estimated by importance sampling."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn
from tqdm import tqdm

from pyro_models.base.names import PixelMode
from pyro_models.data import Attribute, Split, batch_of
from pyro_models.metrics.evaluation import evaluation
from pyro_models.objectives import log_weights
from pyro_models.objectives.estimators import Model

DRAWS = 2000  # decoded at a time: more gain nothing, and fewer cost calls (benchmarks/likelihood.py --draws)


@dataclass(frozen=True)
class Evidence:
    """log p(x) of n data, each estimated from K draws z_k of the guide, whose weights are w_k = p(x, z_k) / q(z_k | x).

    Attributes:
        log_p: log mean_k w_k, nats: [n]. It lies below log p(x) on average, and the less so the more draws (Burda,
            Grosse and Salakhutdinov, 2016, theorem 1).
        effective: (sum_k w_k)^2 / sum_k w_k^2, from 1 to K: how many draws of the posterior itself would do as well
            (Kong, 1992): [n].
        samples: K.
    """

    log_p: Tensor
    effective: Tensor
    samples: int

    @property
    def error(self) -> Tensor:
        """The standard deviation of `log_p` over other draws, by the delta method, nats: [n]; NaN for a single draw."""
        return ((self.samples / self.effective - 1).clamp(min=0) / (self.samples - 1)).sqrt()


def evidence(
    model: nn.Module,
    guide: nn.Module,
    split: Split,
    pixels: PixelMode,
    *,
    attributes: tuple[Attribute, ...] = (),
    samples: int = 500,
    seed: int = 0,
    draws: int = DRAWS,
) -> Evidence:
    """Estimate log p(x) of each datum of a split by importance sampling.

    Discrete sites are summed over. Of a story with attributes these are hidden, and the codes are drawn from
    q(z | x, y): p(x) is the same whatever gives them.

    Args:
        model, guide: the pair.
        split: whose data.
        pixels: the pixel mode; `dynamic` draws each image once, by `seed` alone.
        attributes: which the story tells of.
        samples: K, the number of codes drawn for a datum.
        seed: of the noise.
        draws: codes held in memory at a time, over all data of a batch and for each value of the discrete sites.
    """
    with evaluation(model, guide, seed=seed):
        batches = of_x_alone(model, guide, split, pixels, attributes, max(1, draws // min(samples, 100)))
        parts = [weighed(story, told, x, samples, draws) for story, told, x in tqdm(batches, disable=None)]
    return Evidence(torch.cat([part.log_p for part in parts]), torch.cat([part.effective for part in parts]), samples)


def log_likelihood(model: nn.Module, guide: nn.Module, split: Split, pixels: PixelMode, **options: Any) -> Tensor:
    """Return `log_p` of `evidence`, whose options these are: [n], nats."""
    return evidence(model, guide, split, pixels, **options).log_p


def of_x_alone(
    model: nn.Module, guide: nn.Module, split: Split, pixels: PixelMode, attributes: tuple[Attribute, ...], size: int
) -> list[tuple[Model, Model, Tensor]]:
    """Cut a split into `size` data at a time: x, and the pair as programs of nothing else."""
    batch = batch_of(split, pixels, attributes)
    hidden = [site for site in batch if site != "x"]
    story = poutine.block(model, hide=hidden) if hidden else model
    parts: list[tuple[Model, Model, Tensor]] = []
    for first in range(0, len(split), size):
        given = {site: values[first : first + size] for site, values in batch.items()}
        x = given.pop("x")
        parts.append((story, partial(guide, **given), x))
    return parts


def weighed(model: Model, guide: Model, x: Tensor, samples: int, draws: int) -> Evidence:
    """Estimate log p(x) of a batch, `draws` codes at a time."""
    total = squares = torch.full((len(x),), -math.inf, device=x.device)
    for particles in shares(samples, draws // len(x)):
        weights = log_weights(model, guide, particles=particles, x=x)
        total = torch.logaddexp(total, weights.logsumexp(0))
        squares = torch.logaddexp(squares, (2 * weights).logsumexp(0))
    return Evidence(total - math.log(samples), (2 * total - squares).exp(), samples)


def shares(samples: int, most: int) -> list[int]:
    """Cut `samples` into shares of `most`, or of 1 where that is less, and what is left."""
    most = max(1, most)
    return [min(most, samples - done) for done in range(0, samples, most)]
