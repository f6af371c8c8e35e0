"""Gaussian processes of `pyro.contrib.gp`: exact, sparse, variational, with latent inputs; no arguments at all."""

import pyro.contrib.gp as gp
import pyro.distributions as dist
import torch
from pyro.nn import PyroSample

from tests.programs.pair import Pair, program

X = torch.linspace(0.0, 2.0, 4, dtype=torch.float64)
Y = torch.tensor([0.1, 0.9, 0.8, -0.2], dtype=torch.float64)


@program
def process_exact() -> Pair:
    """`GPRegression`: nothing is latent, and the loss is minus the evidence."""
    process = gp.models.GPRegression(X, Y, gp.kernels.RBF(1), noise=torch.tensor(0.2))
    return Pair(process.model, process.guide, tags=frozenset({"methods", "no-plate"}))


@program
def process_sparse() -> Pair:
    """`SparseGPRegression`: its bound is a factor."""
    x, y = X, Y
    process = gp.models.SparseGPRegression(x, y, gp.kernels.RBF(1), x[::2].clone(), noise=torch.tensor(0.2))
    return Pair(process.model, process.guide, tags=frozenset({"methods", "no-plate"}))


@program
def process_variational() -> Pair:
    """`VariationalSparseGP` with a binary likelihood."""
    x, y = X, torch.tensor([0.0, 1.0, 1.0, 0.0])
    process = gp.models.VariationalSparseGP(
        x, y, gp.kernels.RBF(1), x[::2].clone(), gp.likelihoods.Binary(), whiten=True
    )
    return Pair(process.model, process.guide, tags=frozenset({"methods", "global"}))


@program
def process_latent_inputs() -> Pair:
    """A GP-LVM: the inputs are latent, with an automatic guide of the package's own."""
    y = torch.stack([Y, -Y, Y**2])
    inputs = torch.nn.Parameter(torch.zeros(4, 1))
    points = torch.linspace(-1, 1, 2).unsqueeze(-1)
    process = gp.models.SparseGPRegression(inputs, y, gp.kernels.RBF(1), points, noise=torch.tensor(0.2))
    process.X = PyroSample(dist.Normal(torch.zeros(4, 1), 1.0).to_event())
    process.autoguide("X", dist.Normal)
    return Pair(process.model, process.guide, tags=frozenset({"methods", "global", "no-plate"}))
