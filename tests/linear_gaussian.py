"""A story whose evidence and posterior are known: z ~ Normal(0, I), x ~ Normal(W z + b, s)."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule


class LinearGaussian(PyroModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3, 2))
        self.bias = torch.nn.Parameter(torch.randn(3))
        self.scale = 0.7

    def forward(self, x=None, *, batch=1):
        with pyro.plate("data", batch if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z @ self.weight.T + self.bias, self.scale).to_event(1), obs=x)

    def evidence(self, x):
        covariance = self.weight @ self.weight.T + self.scale**2 * torch.eye(3)
        return dist.MultivariateNormal(self.bias, covariance).log_prob(x)


class ExactGuide(PyroModule):
    """The posterior of a LinearGaussian, moved by `shift`."""

    def __init__(self, model, shift=0.0):
        super().__init__()
        self.model = [model]  # in a list, so that its parameters are not this guide's
        self.shift = torch.nn.Parameter(torch.full((2,), shift))

    def posterior(self, x):
        (model,) = self.model
        precision = torch.eye(2) + model.weight.T @ model.weight / model.scale**2
        loc = (x - model.bias) @ model.weight / model.scale**2 @ torch.linalg.inv(precision)
        return dist.MultivariateNormal(loc + self.shift, precision_matrix=precision)

    def forward(self, x, *, batch=1):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.posterior(x))
