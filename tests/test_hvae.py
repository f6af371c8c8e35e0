"""The VAE of two levels: its story and guide against the formula on paper, a linear one that is known, its recipe."""

from types import SimpleNamespace

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from pyro_models.guides.hvae import HVAEGuide
from torch.nn import Identity, Linear

from pyro_models import nn
from pyro_models.base.errors import UserError
from pyro_models.data import Dataset, Split
from pyro_models.distributions import NormalLikelihood, bernoulli
from pyro_models.hvae import HVAE
from pyro_models.objectives import log_weights, mean_field
from pyro_models.recipes.hvae import HVAERecipe, levels, samples
from pyro_models.training.loop import parameters
from tests.conftest import IMAGE


@pytest.fixture
def pair():
    """An HVAE of 4x4 images, z1 of three numbers below z2 of two, and its guide."""
    top_down = nn.mlp(2, 5, 6)
    model = HVAE(top_down, nn.decoder(nn.mlp(3, 8, 16), IMAGE), bernoulli, 2)
    return model, HVAEGuide(nn.encoder(nn.mlp(16, 8), IMAGE), nn.mlp(8, 6), nn.mlp(8, 5, 4), top_down)


def test_the_story_factorises_as_its_docstring_says(pair, x):
    model, _ = pair
    trace = poutine.trace(model).get_trace(x=x)
    z2, z1 = trace.nodes["z2"]["value"], trace.nodes["z1"]["value"]
    loc, log_scale = model.top_down(z2).chunk(2, -1)
    joint = dist.Normal(0.0, 1.0).log_prob(z2).sum() + dist.Normal(loc, log_scale.exp()).log_prob(z1).sum()
    joint = joint + dist.Bernoulli(logits=model.decoder(z1)).log_prob(x).sum()
    torch.testing.assert_close(trace.log_prob_sum(), joint)
    assert poutine.trace(model).get_trace(batch=3).nodes["_RETURN"]["value"].shape == (3, *IMAGE)


def test_the_guide_factorises_as_its_docstring_says(pair, x):
    _, guide = pair
    trace = poutine.trace(guide).get_trace(x=x)
    z2, z1 = trace.nodes["z2"]["value"], trace.nodes["z1"]["value"]
    torch.testing.assert_close(
        trace.log_prob_sum(), (guide.posterior(x).log_prob(z2) + guide.posterior(x, z2).log_prob(z1)).sum()
    )
    sites = [name for name, site in trace.nodes.items() if site["type"] == "sample"]
    assert sites == ["data", "z2", "z1"]  # the order of the story, which closed-form divergences need


def test_the_ladder_is_the_normalised_product_of_both_factors(pair, x):
    model, guide = pair
    z2 = torch.randn(4, 7, 2)  # four draws of each of seven data
    grid = torch.linspace(-12.0, 12.0, 4801)
    loc, log_scale = guide.lower(guide.encoder(x)).chunk(2, -1)
    bottom_up = dist.Normal(loc, log_scale.exp()).log_prob(grid[:, None, None])
    prior = model.prior(z2).base_dist.log_prob(grid[:, None, None, None])
    product = (bottom_up[:, None] + prior).exp()
    product = product / torch.trapezoid(product, grid, dim=0)
    q = guide.posterior(x, z2)
    assert (q.batch_shape, q.event_shape) == ((4, 7), (3,))
    torch.testing.assert_close(q.base_dist.log_prob(grid[:, None, None, None]).exp(), product)
    torch.testing.assert_close(guide.posterior(x, z2[0]).mean, q.mean[0])


def test_the_bound_is_that_of_pyro_at_the_same_draws(pair, x):
    model, guide = pair
    torch.manual_seed(1)
    expected = TraceMeanField_ELBO(max_plate_nesting=1).loss(model, guide, x=x)
    torch.manual_seed(1)
    terms = mean_field(model, guide, x=x)
    torch.testing.assert_close(7 * terms["loss"].item(), expected)
    torch.testing.assert_close(terms["kl"], terms["kl_z1"] + terms["kl_z2"])


def test_closed_form_and_sampled_divergences_agree_on_average(pair, x):
    model, guide = pair
    with torch.no_grad():
        weights = log_weights(model, guide, particles=20_000, x=x).mean()
        bound = mean_field(model, guide, particles=20_000, x=x)["elbo"]
    torch.testing.assert_close(weights, bound, rtol=0, atol=0.02)


def test_a_linear_story_under_its_ladder_gives_log_p_of_x():
    """z2 ~ Normal(0, 1), z1 ~ Normal(a z2 + b, r), x ~ Normal(w z1 + d, s).

    What x says of z1 is Normal(z1; w (x - d) / w^2, s / |w|) but for a constant, so that the ladder is the posterior.
    """
    a, b, r = torch.randn(1, 1), torch.randn(1), torch.tensor([0.6])
    w, d, s = torch.randn(3, 1), torch.randn(3), 0.7
    x = torch.randn(7, 3)
    square = w.square().sum()
    noise = r**2 * w @ w.T + s**2 * torch.eye(3)  # of x given z2
    slope = w @ a  # of x on z2
    precision = 1 + slope.T @ torch.linalg.solve(noise, slope)
    gain = torch.linalg.solve(noise, slope).T / precision
    top_down = linear(torch.cat([a, torch.zeros(1, 1)]), torch.cat([b, r.log()]))
    lower = linear(
        torch.cat([w.T / square, torch.zeros(1, 3)]), torch.stack([-(w.T @ d)[0] / square, (s / square.sqrt()).log()])
    )
    upper = linear(
        torch.cat([gain, torch.zeros(1, 3)]), torch.stack([-(gain @ (w @ b + d))[0], -0.5 * precision[0, 0].log()])
    )
    model = HVAE(top_down, linear(w, d), NormalLikelihood(s, event_dim=1), 1)
    guide = HVAEGuide(Identity(), lower, upper, top_down)

    evidence = dist.MultivariateNormal(w @ b + d, slope @ slope.T + noise).log_prob(x)
    torch.testing.assert_close(log_weights(model, guide, particles=4, x=x), evidence.expand(4, 7))


def dataset(n=12):
    """Random grey images in three equal splits."""
    split = Split(torch.randint(0, 256, (n, *IMAGE), dtype=torch.uint8), torch.arange(n) % 3)
    return Dataset("noise", "grey", split, split, split)


@pytest.mark.parametrize("network", ["residual", "mlp"])
def test_the_guide_has_the_storys_own_prior_network(network):
    model, guide = HVAERecipe(network=network, latent_dim=2, lower_dim=3).pair(dataset())
    assert guide.top_down is model.top_down
    own = len(list(model.parameters())) + len(list(guide.parameters())) - len(list(model.top_down.parameters()))
    assert len(parameters(model, guide)) == own


def test_the_weight_of_both_kl_terms_warms_up_linearly_to_beta():
    recipe, data = HVAERecipe(latent_dim=2, lower_dim=3, warm_up=0.5, beta=2.0), dataset()
    model, guide = recipe.pair(data)
    objective, batch = recipe.training_objective(guide, data.train), recipe.batch(data, data.train)
    for progress, weight in ((0.0, 0.0), (0.25, 1.0), (0.5, 2.0), (0.9, 2.0)):
        terms = objective.at(progress)(model, guide, **batch)
        torch.testing.assert_close(terms["loss"].detach(), weight * terms["kl"] - terms["reconstruction"])
    assert recipe.is_scheduled
    assert not HVAERecipe(warm_up=0.0).is_scheduled


def test_weighted_bounds_refuse_a_warm_up():
    with pytest.raises(UserError, match="`warm_up` with `elbo=iwae` bounds nothing: give `warm_up=0`"):
        HVAERecipe(elbo="iwae", particles=5)
    HVAERecipe(elbo="iwae", particles=5, warm_up=0.0)


def test_pictures_of_levels_and_of_samples():
    recipe, data = HVAERecipe(latent_dim=2, lower_dim=3), dataset()
    model, guide = recipe.pair(data)
    run = SimpleNamespace(recipe=recipe, dataset=data, model=model, guide=guide)
    (figure,) = levels(run).values()
    assert [axes.get_ylabel() for axes in figure.axes] == ["image", "z1 of x", *(f"z1 of z2, {k}" for k in range(1, 6))]
    assert list(samples(run)) == ["samples"]


def linear(weight, bias):
    """A linear layer of given weights."""
    layer = Linear(*reversed(weight.shape))
    layer.weight.data, layer.bias.data = weight, bias
    return layer
