"""The conditional VAE: its story and guide against the formula on paper, and a linear one whose evidence is known."""

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from torch.nn import Linear, Module

from guides.cvae import CVAEGuide
from pyro_models import nn
from pyro_models.cvae import CVAE
from pyro_models.distributions import NormalLikelihood, bernoulli
from pyro_models.objectives import log_weights, mean_field
from tests.conftest import IMAGE


class OfBoth(Module):
    """A network of two inputs side by side, the second of which may have more dimensions on the left."""

    def __init__(self, body, event_dim=1):
        super().__init__()
        self.body, self.event_dim = body, event_dim

    def forward(self, first, second):
        first = first.flatten(-self.event_dim)
        return self.body(torch.cat([first.expand(*second.shape[:-1], -1), second], -1))


@pytest.fixture
def pair():
    """A CVAE of 4x4 images given one of three classes, with two latents, and its guide."""
    decoder = nn.decoder(nn.mlp(5, 8, 16), IMAGE)
    story = CVAE(nn.mlp(3, 4), OfBoth(decoder), bernoulli)
    return story, CVAEGuide(OfBoth(nn.mlp(19, 8, 4), event_dim=3))


@pytest.fixture
def c():
    """The classes of the seven images."""
    return torch.eye(3)[[0, 2, 1, 1, 0, 2, 2]]


def test_the_story_and_the_guide_factorise_as_their_docstrings_say(pair, x, c):
    model, guide = pair
    trace = poutine.trace(model).get_trace(x=x, c=c)
    z = trace.nodes["z"]["value"]
    loc, log_scale = model.conditional_prior(c).chunk(2, -1)
    joint = dist.Normal(loc, log_scale.exp()).log_prob(z).sum()
    joint = joint + dist.Bernoulli(logits=model.decoder(c, z)).log_prob(x).sum()
    torch.testing.assert_close(trace.log_prob_sum(), joint)
    loc, log_scale = guide.encoder(x, c).chunk(2, -1)
    posterior = dist.Normal(loc, log_scale.exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(guide.posterior(x, c).log_prob(z), posterior)
    assert {name for name, site in trace.nodes.items() if site["type"] == "sample"} == {"data", "z", "x"}


def test_conditions_set_the_batch_and_nothing_is_believed_of_them(pair, c):
    model, _ = pair
    trace = poutine.trace(model).get_trace(c=c)
    assert trace.nodes["_RETURN"]["value"].shape == (7, *IMAGE)
    torch.testing.assert_close(trace.nodes["z"]["fn"].mean, model.prior(c).mean)


def test_the_bound_is_that_of_pyro_at_the_same_draw(pair, x, c):
    model, guide = pair
    torch.manual_seed(1)
    expected = TraceMeanField_ELBO(max_plate_nesting=1).loss(model, guide, x=x, c=c)
    torch.manual_seed(1)
    torch.testing.assert_close(7 * mean_field(model, guide, x=x, c=c)["loss"].item(), expected)


def test_a_linear_story_under_its_exact_posterior_gives_log_p_of_x_given_c():
    """Of one latent: z ~ Normal(a c + b, r), x ~ Normal(w z + V c + d, s), and q the posterior."""
    a, b, r = torch.randn(1, 2), torch.randn(1), torch.tensor([0.6])
    w, v, d, s = torch.randn(3, 1), torch.randn(3, 2), torch.randn(3), 0.7
    x, c = torch.randn(7, 3), torch.randn(7, 2)

    precision = 1 / r**2 + w.square().sum() / s**2
    gain = w / s**2 / precision  # of x - V c - d on the mean of z
    of_x, of_c = gain.T, a / r**2 / precision - gain.T @ v
    constant = (b / r**2 - (w.T @ d) / s**2) / precision
    prior = linear(torch.cat([a, torch.zeros(1, 2)]), torch.cat([b, r.log()]))
    encoder = linear(
        torch.cat([torch.cat([of_x, of_c], 1), torch.zeros(1, 5)]),
        torch.cat([constant, -0.5 * precision.log().reshape(1)]),
    )
    model = CVAE(prior, OfBoth(linear(torch.cat([v, w], 1), d)), NormalLikelihood(s, event_dim=1))
    guide = CVAEGuide(OfBoth(encoder))

    covariance = r**2 * w @ w.T + s**2 * torch.eye(3)
    evidence = dist.MultivariateNormal((c @ a.T + b) @ w.T + c @ v.T + d, covariance).log_prob(x)
    torch.testing.assert_close(log_weights(model, guide, particles=4, x=x, c=c), evidence.expand(4, 7))


def test_given_pixels_are_certain_and_log_p_counts_the_others_alone(x):
    given = torch.zeros(IMAGE, dtype=torch.bool)
    given[:, 2:, :2] = True
    c = x * given
    decoder = nn.Conditional(nn.encoder(nn.mlp(16, 8), IMAGE), nn.mlp(2, 8), nn.decoder(nn.mlp(8, 16), IMAGE))
    model = CVAE(nn.encoder(nn.mlp(16, 4), IMAGE), decoder, bernoulli, given)
    z = torch.randn(5, 7, 2)
    p = model.likelihood_of(z, c)
    each = dist.Bernoulli(logits=decoder(c, z)).log_prob(x)
    assert (p.batch_shape, p.event_shape) == ((5, 7), IMAGE)
    torch.testing.assert_close(p.log_prob(x), each[..., ~given].sum(-1))
    torch.testing.assert_close(p.log_prob(torch.where(given, 1 - x, x)), p.log_prob(x))
    drawn = p.expand([3, 5, 7]).sample()
    assert (drawn == x)[..., given.expand_as(x[0])].all()
    assert (drawn[0] != drawn[1]).any()
    torch.testing.assert_close(p.mean, torch.where(given, c, decoder(c, z).sigmoid()))
    assert (p.variance[..., given.expand_as(x[0])] == 0).all()
    replicates = poutine.uncondition(model)(x=x, c=c)
    assert (replicates == x)[..., given.expand_as(x[0])].all()
    assert (replicates != x).any()


def linear(weight, bias):
    """A linear layer of given weights."""
    layer = Linear(*reversed(weight.shape))
    layer.weight.data, layer.bias.data = weight, bias
    return layer
