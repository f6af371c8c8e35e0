"""Effect handlers: a story stays as it is told, and what is made of it changes."""

from collections.abc import Mapping
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_models.objectives.estimators import Model, Objective, Terms


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


def tempered(objective: Objective, scales: Mapping[str, float]) -> Objective:
    """`objective` with the log-densities of the named sites scaled; unchanged where every scale is 1.

    Only `loss` feels the scales: `elbo`, `reconstruction` and `kl` keep their meaning.
    """
    scales = {site: scale for site, scale in scales.items() if scale != 1.0}
    if not scales:
        return objective

    def scaled(model: Model, guide: Model, **batch: Tensor) -> Terms:
        with ScaleSites(scales):
            return objective(model, guide, **batch)

    return scaled
