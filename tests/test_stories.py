"""What each story and guide says, against the formula on paper."""

import math

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO
from pyro_models.guides.autoencoder import AutoencoderGuide
from pyro_models.guides.classifier import ClassifierGuide

from pyro_models import nn
from pyro_models.autoencoder import Autoencoder
from pyro_models.classifier import Classifier
from pyro_models.distributions import NormalLikelihood
from pyro_models.objectives import enum, mean_field, trace
from tests.conftest import IMAGE
from tests.linear_mixture import gradient


def test_the_vae_factorises_as_its_docstring_says(vae, x):
    model, guide = vae
    trace = poutine.trace(model).get_trace(x=x)
    z = trace.nodes["z"]["value"]
    joint = dist.Normal(0.0, 1.0).log_prob(z).sum() + dist.Bernoulli(logits=model.decoder(z)).log_prob(x).sum()
    torch.testing.assert_close(trace.log_prob_sum(), joint)
    loc, log_scale = guide.encoder(x).chunk(2, -1)
    posterior = dist.Normal(loc, log_scale.exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(guide.posterior(x).log_prob(z), posterior)


def test_the_prior_of_the_vae_is_standard_normal(vae):
    model, _ = vae
    trace = poutine.trace(model).get_trace(batch=100_000)
    z = trace.nodes["z"]["value"]
    torch.testing.assert_close(z.mean(0), torch.zeros(2), rtol=0, atol=0.02)
    torch.testing.assert_close(z.T.cov(), torch.eye(2), rtol=0, atol=0.02)
    assert trace.nodes["_RETURN"]["value"].shape == (100_000, *IMAGE)


def test_replicates_are_drawn_and_not_the_data(vae):
    """`Predictive(model, guide=guide)(x)` gives back x; with the observation undone it gives replicates."""
    model, guide = vae
    x = torch.bernoulli(torch.full((400, *IMAGE), 0.5))
    copies = Predictive(model, guide=guide, num_samples=3)(x=x)["x"]
    replicates = Predictive(poutine.uncondition(model), guide=guide, num_samples=3)(x=x)["x"]
    assert (copies == x).all()
    assert (replicates != x).double().mean() > 0.3
    expected = torch.stack([model.decoder(guide.posterior(x).rsample()).sigmoid() for _ in range(50)]).mean()
    torch.testing.assert_close(replicates.mean(), expected, rtol=0, atol=0.02)


def test_the_elbo_of_the_autoencoder_is_its_squared_error_exactly(x):
    encoder, decoder = nn.mlp(16, 3), nn.mlp(3, 16)
    model = Autoencoder(nn.decoder(decoder, IMAGE), NormalLikelihood(1.0), 3)
    guide = AutoencoderGuide(nn.encoder(encoder, IMAGE))
    squared_error = (decoder(encoder(x.flatten(1))) - x.flatten(1)).square().sum()
    constant = 0.5 * x.numel() * math.log(2 * math.pi)
    loss = Trace_ELBO(max_plate_nesting=1).loss(model, guide, x=x)
    torch.testing.assert_close(loss, (0.5 * squared_error + constant).item())


@pytest.mark.parametrize("estimator", [trace, mean_field, enum])
def test_the_bound_of_the_classifier_is_the_mean_cross_entropy_exactly(estimator):
    network, labels = nn.mlp(5, 8, 3), torch.tensor([0, 2, 2, 1, 0, 1, 2])
    model, guide = Classifier(network), ClassifierGuide(network)
    x, y = torch.randn(7, 5), torch.eye(3)[labels]
    cross_entropy = torch.nn.functional.cross_entropy(network(x), labels)
    terms = estimator(model, guide, x=x, y=y)
    torch.testing.assert_close(terms["loss"], cross_entropy)
    torch.testing.assert_close(gradient(terms["loss"], network), gradient(cross_entropy, network))
    torch.testing.assert_close(terms["elbo"], -cross_entropy.detach())
    assert set(terms) == {"loss", "elbo"}
    loss = Trace_ELBO(max_plate_nesting=1).loss(model, guide, x=x, y=y)
    torch.testing.assert_close(loss, 7 * cross_entropy.item())


def test_the_classifier_draws_each_kind_as_often_as_it_says():
    network = nn.mlp(2, 3)
    model, guide = Classifier(network), ClassifierGuide(network)
    x = torch.tensor([[0.3, -1.0], [2.0, 1.0]])
    drawn = model(x.repeat(50_000, 1)).reshape(50_000, 2, 3)
    assert (drawn.sum(-1) == 1).all()
    torch.testing.assert_close(guide.classify(x).probs, network(x).softmax(-1))
    torch.testing.assert_close(drawn.mean(0), network(x).softmax(-1).detach(), rtol=0, atol=0.01)
