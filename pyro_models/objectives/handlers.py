"""Effect handlers: a story stays as it is told, and what is made of it changes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyro.distributions import TorchDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Site:
    """One `pyro.sample` of a program that ran.

    Attributes:
        fn: the distribution, expanded over the plates around it.
        value: what was drawn from it, or observed.
        is_observed: which of the two.
        scale: what multiplies the log-density (`poutine.scale`, a subsampled plate, `ScaleSites`).
        mask: where the log-density counts (`poutine.mask`); None where it counts everywhere.
    """

    fn: TorchDistribution
    value: Tensor
    is_observed: bool
    scale: Tensor | float
    mask: Tensor | bool | None

    def log_prob(self) -> Tensor:
        """Return the log-density with the mask and without the scale: one value for each datum of the plates."""
        return scale_and_mask(self.fn.log_prob(self.value), mask=self.mask)


class Record(Messenger):
    """Record the sample sites of a program, giving its latent ones values that another program drew.

    This is what `poutine.trace` and `poutine.replay` do together, less what no estimator here reads; a training step of
    a small net spends a tenth less time.

    Attributes:
        sites: from the name of each site to what happened there, in order.
    """

    def __init__(self, latents: Mapping[str, Site] | None = None):
        super().__init__()
        self.latents = latents or {}
        self.sites: dict[str, Site] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.latents and not msg["is_observed"]:
            msg["value"] = self.latents[msg["name"]].value
            msg["done"] = True

    def _pyro_post_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            self.sites[msg["name"]] = Site(msg["fn"], msg["value"], msg["is_observed"], msg["scale"], msg["mask"])


class ScaleSites(Messenger):
    """Multiply the log-density of named sample sites, in the model and in the guide alike.

    With `ScaleSites({"z": beta})` around both, the ELBO becomes reconstruction - beta * kl (Higgins et al.,
    beta-VAE, 2017, equation 4).
    """

    def __init__(self, scales: Mapping[str, float]):
        super().__init__()
        self.scales = scales

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.scales:
            msg["scale"] = msg["scale"] * self.scales[msg["name"]]


class AtMean(Messenger):
    """Give each latent site the mean of its distribution where it would have been sampled."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            msg["value"] = msg["fn"].mean
            msg["done"] = True


def recorded(
    model: Callable[..., Any], guide: Callable[..., Any], **batch: Tensor
) -> tuple[dict[str, Site], dict[str, Site]]:
    """Run the guide, then the model at what the guide drew: the sites of the model, and of the guide.

    Raises:
        ValueError: the guide's sites are not the model's latent ones.
    """
    with Record() as q:
        guide(**batch)
    with Record(latents=q.sites) as p:
        model(**batch)
    latent = {name for name, site in p.sites.items() if not site.is_observed}
    if latent != q.sites.keys():
        raise ValueError(f"the model's latent sites are {sorted(latent)}, the guide's are {sorted(q.sites)}")
    return p.sites, q.sites
