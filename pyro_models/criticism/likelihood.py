"""The evidence, estimated by importance sampling."""

import math
from functools import partial

import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_models.base.names import PixelMode
from pyro_models.criticism.metrics import evaluation
from pyro_models.data import Attribute, Split, batch_of
from pyro_models.objectives import log_weights


def log_likelihood(
    model: nn.Module,
    guide: nn.Module,
    split: Split,
    pixels: PixelMode,
    *,
    attributes: tuple[Attribute, ...] = (),
    samples: int = 500,
    seed: int = 0,
    batch: int = 20_000,
) -> Tensor:
    """Return log mean_k p(x, z_k) / q(z_k | x) for each image: [n], nats.

    It lies below log p(x) on average, and the less so the more samples (Burda et al., 2016, theorem 1). Of a story with
    attributes these are hidden, and the codes are drawn from q(z | x, y): p(x) is the same whatever gives them.

    Args:
        model, guide: the pair.
        split: whose images.
        pixels: the pixel mode; `dynamic` draws each image once, by `seed`.
        attributes: which the story tells of.
        samples: K, the number of codes drawn for an image.
        seed: of the noise.
        batch: decoded images held in memory at a time.
    """
    at_once = min(samples, 100)
    result = []
    with evaluation(model, guide, seed=seed):
        size = max(1, batch // at_once)
        for first in range(0, len(split), size):
            y = batch_of(split[first : first + size], pixels, attributes)
            x = y.pop("x")
            story, told = (poutine.block(model, hide=list(y)), partial(guide, **y)) if y else (model, guide)
            total = torch.full((len(x),), -math.inf, device=x.device)
            for done in range(0, samples, at_once):
                weights = log_weights(story, told, particles=min(at_once, samples - done), x=x)
                total = torch.logaddexp(total, weights.logsumexp(0))
            result.append(total - math.log(samples))
    return torch.cat(result)
