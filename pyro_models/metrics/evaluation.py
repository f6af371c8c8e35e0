"""A pair applied to data: terms of a bound averaged over batches, latents, reconstructions, generated data."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_models.base.seeds import seed_noise
from pyro_models.distributions import Columns
from pyro_models.objectives import AtMean, Objective, Program, Record, gpus_of, modules_of

Data = Mapping[str, Tensor]
"""What a pair is called with: tensors [n, *shape], by the names of its arguments."""


@contextmanager
def eval_mode(*programs: Program | nn.Module, seed: int = 0) -> Iterator[None]:
    """Without gradients or validation, modules in evaluation mode, noise from `seed`; all is restored afterwards.

    Args:
        programs: modules, and functions and methods, of which the modules are found that they reach (`modules_of`).
        seed: of the noise.

    >>> dropout = nn.Dropout(0.9)
    >>> with eval_mode(dropout):
    ...     dropout(torch.ones(3))
    tensor([1., 1., 1.])
    >>> dropout.training
    True
    """
    modules = modules_of(*programs)
    modes = {part: part.training for module in modules for part in module.modules()}
    store = pyro.get_param_store()
    devices = gpus_of(parameter for module in modules for parameter in module.parameters())
    with (
        torch.no_grad(),
        torch.random.fork_rng(devices),
        store.scope(store.get_state()),
        pyro.validation_enabled(False),
    ):
        seed_noise(seed, "evaluation")
        for module in modules:
            module.eval()
        try:
            yield
        finally:
            for part, mode in modes.items():
                part.training = mode


def reconstruct(model: Program, guide: Program, batch: Data, *, site: str = "x") -> Tensor:
    """Return E[p(x | z)] at the mean of q(z | x), or of q(z | x, y) at the likeliest y: [batch, *shape].

    Args:
        model, guide: the pair.
        batch: what both are called with.
        site: the observed site to reconstruct.

    >>> from pyro_models.guides import VAEGuide
    >>> from pyro_models import VAE, distributions
    >>> model, guide = VAE(nn.Linear(2, 4), distributions.NormalLikelihood(1.0, 1), 2), VAEGuide(nn.Linear(4, 4))
    >>> reconstruct(model, guide, {"x": torch.zeros(7, 4)}).shape
    torch.Size([7, 4])
    """
    with eval_mode(model, guide):
        with AtMean(), Record() as q:
            guide(**batch)
        with Record(latents=q.sites) as p:
            model(**batch)
    return (distribution_of_x(model, p.sites) if site == "x" else p.sites[site].fn).mean


def distribution_of_x(model: Any, sites: Mapping[str, Any]) -> Any:
    """Return p(x | ...) of a recorded run of a story; of a table whose groups of columns are sites, that of all."""
    if "x" in sites or not hasattr(getattr(model, "likelihood", None), "index"):
        return sites["x"].fn
    index = model.likelihood.index
    return Columns({site: sites[site].fn for site in index}, index)


def generate(
    model: Program, sites: Sequence[str], batch: int, *, mean: bool = True, seed: int = 0, **given: Tensor
) -> dict[str, Tensor]:
    """Draw `batch` data from the story, conditioned on the values of some sites.

    Args:
        model: the story.
        sites: those whose values are returned.
        batch: how many data.
        mean: whether to return the mean of the distribution of `x` in place of a draw.
        seed: of the draws.
        given: values to condition on, [batch, *shape], by site.

    Returns:
        by site, [batch, *shape]: values.

    Raises:
        ValueError: the story has no site of such a name.

    >>> from pyro_models import VAE, distributions
    >>> values = generate(VAE(nn.Linear(2, 4), distributions.NormalLikelihood(1.0, 1), 2), ["z", "x"], batch=7)
    >>> values["z"].shape, values["x"].shape
    (torch.Size([7, 2]), torch.Size([7, 4]))
    """
    with eval_mode(model, seed=seed), Record() as p:
        poutine.condition(model, data=given)(batch=batch)
    values = {name: site.value for name, site in p.sites.items()}
    if "x" in sites and (mean or "x" not in values):
        x = distribution_of_x(model, p.sites)
        values["x"] = x.mean if mean else x.concatenated({name: values[name] for name in x.parts})
    if unknown := (given.keys() | set(sites)) - values.keys():
        raise ValueError(f"the story has no site {', '.join(sorted(unknown))}: its sites are {', '.join(p.sites)}")
    return {name: values[name] for name in sites}


def decode(model: Program, z: Tensor, *, site: str = "z") -> Tensor:
    """Return E[p(x | z)] at latents z [batch, latent] of a site: [batch, *image].

    >>> from pyro_models import VAE, distributions
    >>> decode(VAE(nn.Linear(2, 4), distributions.NormalLikelihood(1.0, 1), 2), torch.zeros(7, 2)).shape
    torch.Size([7, 4])
    """
    given: dict[str, Any] = {site: z}
    return generate(model, ["x"], len(z), **given)["x"]


def encode(guide: Program, batches: Iterable[Data], *, site: str = "z") -> Tensor:
    """Return the mean of q(z | x), or of q(z | x, y) at the likeliest y, for each datum: [n, latent].

    Args:
        guide: the guide.
        batches: what it is called with; a generator runs within the evaluation's own noise, the same for each batch.
        site: the latent site.

    >>> from pyro_models.guides import VAEGuide
    >>> encode(VAEGuide(nn.Linear(4, 4)), [{"x": torch.zeros(5, 4)}, {"x": torch.zeros(2, 4)}]).shape
    torch.Size([7, 2])
    """
    means: list[Tensor] = []
    remaining = iter(batches)
    while True:
        with eval_mode(guide), AtMean(), Record() as q:
            batch = next(remaining, None)
            if batch is None:
                return torch.cat(means)
            guide(**batch)
        means.append(q.sites[site].value)


def in_batches(data: Data, size: int | None) -> Iterator[dict[str, Tensor]]:
    """Cut tensors [n, *shape] into consecutive parts of `size`, or yield them whole (None).

    >>> [len(part["x"]) for part in in_batches({"x": torch.zeros(7, 4)}, 3)]
    [3, 3, 1]
    """
    n = len(next(iter(data.values())))
    for first in range(0, n, size or n):
        yield {name: values[first : first + (size or n)] for name, values in data.items()}


def evaluate(
    model: Program,
    guide: Program,
    objective: Objective,
    batches: Iterable[Data],
    *,
    scores: Callable[[Data], Mapping[str, Tensor]] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Return the terms of an objective but its loss, averaged over the data of some batches.

    Args:
        model, guide: the pair.
        objective: the estimator.
        batches: what the pair is called with; a generator runs within the evaluation's own noise.
        scores: returns further means over a batch, by name.
        seed: of the noise.

    Returns:
        `elbo`, `reconstruction`, `kl` and the objective's other terms, nats per datum; and the scores.

    >>> from pyro_models.guides import VAEGuide
    >>> from pyro_models import VAE, distributions, objectives
    >>> model, guide = VAE(nn.Linear(2, 4), distributions.NormalLikelihood(1.0, 1), 2), VAEGuide(nn.Linear(4, 4))
    >>> list(evaluate(model, guide, objectives.mean_field, [{"x": torch.zeros(7, 4)}]))
    ['elbo', 'reconstruction', 'kl']
    """
    totals: dict[str, float] = {}
    count = 0
    with eval_mode(model, guide, seed=seed):
        for batch in batches:
            n = len(next(iter(batch.values())))
            count += n
            terms: dict[str, Tensor] = {**objective(model, guide, **batch), **(scores(batch) if scores else {})}
            for name, term in terms.items():
                if name != "loss":
                    totals[name] = totals.get(name, 0.0) + float(term) * n
    return {name: total / count for name, total in totals.items()}
