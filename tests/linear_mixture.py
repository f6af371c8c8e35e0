"""A GMVAE whose evidence is known: y ~ Uniform, z ~ Normal(loc(y), scale(y)), x ~ Normal(W z + b, s)."""

import math

import pyro.distributions as dist
import torch
from pyro_models.guides.gmvae import GMVAEGuide

from pyro_models import nn
from pyro_models.distributions import NormalLikelihood
from pyro_models.gmvae import GMVAE

KINDS, LATENT, COLUMNS, SCALE = 3, 2, 4, 0.7


def linear_mixture():
    """The story, and a guide that knows nothing yet."""
    component = torch.nn.Linear(KINDS, 2 * LATENT)
    decoder = torch.nn.Linear(LATENT, COLUMNS)
    model = GMVAE(component, decoder, NormalLikelihood(SCALE, event_dim=1), KINDS)
    encoder = nn.Conditional(torch.nn.Linear(COLUMNS, 8), torch.nn.Linear(KINDS, 8), nn.mlp(8, 8, 2 * LATENT))
    return model, GMVAEGuide(nn.mlp(COLUMNS, 8, KINDS), encoder)


def joint_of_kinds(model, x):
    """log p(x, y) for each datum and kind, [batch, kinds]."""
    prior = model.prior(torch.eye(KINDS)).base_dist
    weight, bias = model.decoder.weight, model.decoder.bias
    covariance = (weight * prior.scale.square()[:, None]) @ weight.T + SCALE**2 * torch.eye(COLUMNS)
    kinds = dist.MultivariateNormal(prior.loc @ weight.T + bias, covariance)
    return kinds.log_prob(x[:, None]) - math.log(KINDS)


def evidence(model, x):
    """log p(x) for each datum, [batch]."""
    return joint_of_kinds(model, x).logsumexp(-1)


def gradient(loss, *modules):
    """The gradient by all parameters of the modules, in one vector; 0 where the loss does not reach."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    found = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return torch.cat([each.flatten() for each in found])
