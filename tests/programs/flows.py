"""Normalising flows: as a guide for each datum, as a prior, and data within data."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import transforms
from torch import Tensor, nn

from tests.programs.pair import Pair, program


@program
def flow_guide() -> Pair:
    """A conditional autoregressive flow for each datum, of which each has several observations: nested plates."""
    x = torch.tensor([[0.3, -0.4], [0.8, 0.1], [-0.2, 0.5]])  # [observations, data]
    flow = transforms.conditional_affine_autoregressive(2, 3, hidden_dims=[6])

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("observations", len(x), dim=-2):
                pyro.sample("x", dist.Normal(z[..., 0], 0.5 + z[..., 1].sigmoid()), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("flow", flow)
        with pyro.plate("data", x.shape[1], dim=-1):
            base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
            pyro.sample("z", dist.ConditionalTransformedDistribution(base, [flow]).condition(x.T))

    return Pair(model, guide, kwargs={"x": x}, tags=frozenset({"local", "nested", "amortised", "flow"}))


@program
def flow_prior() -> Pair:
    """A learned flow as the prior of an auto-encoder's latents."""
    x = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    encoder, decoder, flow = nn.Linear(3, 4), nn.Linear(2, 3), transforms.affine_autoregressive(2, hidden_dims=[3])

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder), pyro.module("flow", flow)
        with pyro.plate("data", len(x)):
            prior = dist.TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), [flow])
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    return Pair(model, guide, kwargs={"x": x}, tags=frozenset({"local", "flow", "amortised"}))
