"""The story of the Gaussian-mixture variational auto-encoder."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_models.distributions import Likelihood, observe

SPEED = 20.0  # by which the logits of p(y) move faster than other parameters: they have to follow q(y | x)


class GMVAE(PyroModule):
    r"""Gaussian-mixture variational auto-encoder.

        y ~ Categorical(weights)            y: [batch, clusters], one-hot; weights 1 / clusters, or learned
        z ~ Normal(loc(y), scale(y))        z: [batch, latent]
        x ~ likelihood(decoder(z))          x: [batch, *image], pixels in [0, 1], or [batch, columns]

    Dilokthanakul et al., Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders, 2016; Kingma et
    al., Semi-supervised Learning with Deep Generative Models, 2014, where y is observed for some data.

    Args:
        component: from one-hot clusters [..., clusters] to [..., 2 * latent], loc beside log_scale.
        decoder: from latents [..., latent] to the parameters of the likelihood.
        likelihood: from the decoder's output to a distribution over data.
        clusters: the number of mixture components.
        learned: whether the weights of the components are learned; else all are equal.
    """

    scores: Tensor

    def __init__(
        self, component: nn.Module, decoder: nn.Module, likelihood: Likelihood, clusters: int, learned: bool = False
    ):
        super().__init__()
        self.component = component
        self.decoder = decoder
        self.likelihood = likelihood
        if learned:
            self.scores = nn.Parameter(torch.zeros(clusters))
        else:
            self.register_buffer("scores", torch.zeros(clusters), persistent=False)

    @property
    def logits(self) -> Tensor:
        """Unnormalised log p(y), [clusters]: the parameters times `SPEED`."""
        return SPEED * self.scores

    def prior(self, y: Tensor) -> dist.TorchDistribution:
        """Return p(z | y), event shape [latent]."""
        loc, log_scale = self.component(y).chunk(2, dim=-1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def likelihood_of(self, z: Tensor) -> dist.TorchDistribution:
        """Return p(x | z), event shape of a datum; further dimensions of `z` stand left of the batch."""
        return self.likelihood(self.decoder(z))

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, *, batch: int = 1) -> Tensor:
        """Run the model on observed data `x`, or generate `batch`; `y` observes the clusters, [batch, clusters]."""
        with pyro.plate("data", batch if x is None else len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=self.logits), obs=y)
            z = pyro.sample("z", self.prior(y))
            return observe("x", self.likelihood_of(z), x)
