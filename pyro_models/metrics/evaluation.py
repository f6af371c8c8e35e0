"""What a trained pair makes of images, as figures; nothing here knows which model it is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyro
import torch
import torch.nn.functional as F
from pyro import poutine
from torch import Tensor, nn

from pyro_models.base.names import PixelMode
from pyro_models.base.seeds import derived_seed
from pyro_models.data import Attribute, Split, batch_of, to_float
from pyro_models.objectives import AtMean, Objective, Record


@contextmanager
def evaluation(*modules: nn.Module, seed: int = 0) -> Iterator[None]:
    """Without gradients, in evaluation mode, with the same noise each time; all is put back afterwards."""
    modes = {part: part.training for module in modules for part in module.modules()}
    store = pyro.get_param_store()
    devices = {p.device.index for module in modules for p in module.parameters() if p.is_cuda}
    with (
        torch.no_grad(),
        torch.random.fork_rng(devices),
        store.scope(store.get_state()),
        pyro.validation_enabled(False),
    ):
        torch.manual_seed(derived_seed(seed, "evaluation"))
        for module in modules:
            module.eval()
        try:
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode


def reconstruct(model: nn.Module, guide: nn.Module, x: Tensor) -> Tensor:
    """Return E[p(x | z)] at the mean of q(z | x), or of q(z | x, y) at the likeliest y: [batch, *shape]."""
    with evaluation(model, guide):
        with AtMean(), Record() as q:
            guide(x=x)
        with Record(latents=q.sites) as p:
            model(x=x)
    return p.sites["x"].fn.mean


def draw(model: nn.Module, sites: Sequence[str], batch: int, **known: Tensor) -> dict[str, Tensor]:
    """Tell the story `batch` times, with what is `known` of it, and return what came about at some sites.

    An observed `x` is never asked for here: it is drawn, and `x` among the sites gives its mean.
    """
    with evaluation(model), Record() as p:
        poutine.condition(model, data=known)(batch=batch)
    return {name: p.sites[name].fn.mean if name == "x" else p.sites[name].value for name in sites}


def decode(model: nn.Module, z: Tensor) -> Tensor:
    """Return E[p(x | z)] at codes z [batch, latent]: [batch, *image]."""
    return draw(model, ["x"], len(z), z=z)["x"]


def codes(guide: nn.Module, split: Split, pixels: PixelMode, batch_size: int = 1000) -> Tensor:
    """Return the mean of q(z | x), or of q(z | x, y) at the likeliest y, for each datum of a split: [n, latent]."""
    means = []
    for part in split.x.split(batch_size):
        with evaluation(guide), AtMean(), Record() as q:
            guide(x=to_float(part, pixels))
        means.append(q.sites["z"].value)
    return torch.cat(means)


def evaluate(
    model: nn.Module,
    guide: nn.Module,
    objective: Objective,
    split: Split,
    pixels: PixelMode,
    *,
    kinds: int | None = None,
    attributes: tuple[Attribute, ...] = (),
    seed: int = 0,
    batch_size: int = 1000,
) -> dict[str, float]:
    """Average over a split: the terms of the objective but its loss, and the error of the reconstruction.

    Args:
        kinds: of a story of y given x, how many there are: the labels are observed. None for a story of x.
        attributes: which a story of x and attributes tells of.

    Returns:
        `elbo`, `reconstruction`, `kl` and what else the objective names, in nats per image; for a story of x also
        `mse`, the squared difference between an image and its reconstruction, averaged over pixels and images.
    """
    totals: dict[str, float] = {}
    with evaluation(model, guide, seed=seed):
        for first in range(0, len(split), batch_size):
            part = split[first : first + batch_size]
            batch = batch_of(part, pixels, attributes)
            x = batch["x"]
            if kinds is None:
                terms = objective(model, guide, **batch)
                terms["mse"] = (reconstruct(model, guide, x) - x).square().mean()
            else:
                terms = objective(model, guide, x=x, y=F.one_hot(part.labels, kinds).to(x))  # type: ignore[arg-type]
            del terms["loss"]
            for name, term in terms.items():
                totals[name] = totals.get(name, 0.0) + float(term) * len(x)
    return {name: total / len(split) for name, total in totals.items()}
