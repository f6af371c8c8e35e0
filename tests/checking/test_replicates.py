"""Replicates are draws, and no way leads to the data themselves."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro_models.guides.jmvae import JMVAEGuide

from pyro_models import nn
from pyro_models.checking.replicates import as_drawn, in_parts, replicate
from pyro_models.distributions import bernoulli, grey_bernoulli
from pyro_models.jmvae import JMVAE
from tests.conftest import IMAGE
from tests.linear_gaussian import ExactGuide, LinearGaussian
from tests.linear_mixture import KINDS, linear_mixture


def moments_agree(drawn, loc, covariance, tolerance=0.05):
    torch.testing.assert_close(drawn.mean(0), loc, rtol=0, atol=tolerance)
    torch.testing.assert_close(drawn.T.cov(), covariance, rtol=0, atol=tolerance)


def test_a_prior_replicate_is_a_draw_from_the_evidence():
    model = LinearGaussian().requires_grad_(False)
    x = torch.full((100_000, 3), 7.0)
    replicated = replicate(model, None, {"x": x})
    moments_agree(replicated.drawn["x"], model.bias, model.weight @ model.weight.T + model.scale**2 * torch.eye(3))
    assert torch.equal(replicated.observed["x"], x)
    assert replicated.latents["z"].shape == (100_000, 2)


def test_a_posterior_replicate_is_a_draw_from_the_posterior_predictive_and_not_its_mean():
    model = LinearGaussian().requires_grad_(False)
    guide = ExactGuide(model).requires_grad_(False)
    x = torch.tensor([0.3, -1.0, 2.0]).expand(100_000, 3)
    posterior = guide.posterior(x[:1])
    replicated = replicate(model, guide, {"x": x})
    spread = model.weight @ posterior.covariance_matrix[0] @ model.weight.T
    moments_agree(
        replicated.drawn["x"], model.weight @ posterior.mean[0] + model.bias, spread + model.scale**2 * torch.eye(3)
    )


def test_a_replicate_of_a_story_conditioned_on_the_data_is_drawn_all_the_same(vae):
    model, guide = vae
    x = torch.bernoulli(torch.full((400, *IMAGE), 0.5))

    def given(x):
        return poutine.condition(model, data={"x": x})(batch=len(x))

    expected = torch.stack([model.decoder(guide.posterior(x).sample()).sigmoid() for _ in range(50)]).mean()
    for conditioned in (given, poutine.condition(model, data={"x": x})):
        drawn = replicate(conditioned, guide, {"x": x}).drawn["x"]
        assert (drawn != x).double().mean() > 0.3
        torch.testing.assert_close(drawn.mean(), expected.detach(), rtol=0, atol=0.03)


def test_a_pair_that_would_return_the_data_is_refused(vae, x):
    model, guide = vae

    def copying(x):
        guide(x=x)
        pyro.sample("x", dist.Delta(x, event_dim=3))

    with pytest.raises(ValueError, match="'x' of the guide is no latent site of the model"):
        replicate(model, copying, {"x": x})
    with pytest.raises(ValueError, match="observed from outside"), poutine.condition(data={"x": x}):
        replicate(model, guide, {"x": x})
    with pytest.raises(ValueError, match="no draws of 'z', a latent site of the model: draw it in the guide"):
        replicate(model, lambda x: None, {"x": x})


def test_clusters_that_the_guide_draws_are_those_of_the_replicate():
    model, guide = linear_mixture()
    replicated = replicate(model, guide, {"x": torch.randn(50, 4)})
    y = replicated.latents["y"]
    assert (y.sum(-1) == 1).all()
    z = dist.Normal(0.0, 1.0).log_prob(replicated.latents["z"])
    assert z.shape == (50, 2)
    assert (replicated.likelihood["x"].mean == model.decoder(replicated.latents["z"])).all()


def test_attributes_are_drawn_too_and_stay_missing_where_they_are():
    heads = {"y1": nn.mlp(2, 3), "y2": nn.mlp(2, 1)}
    model = JMVAE(nn.decoder(nn.mlp(2, 16), IMAGE), bernoulli, heads, 2)
    sizes = {"y1": 3, "y2": 1}
    encoder = nn.Conditional(nn.encoder(nn.mlp(16, 8), IMAGE), torch.nn.Linear(4, 8), nn.mlp(8, 4))
    guide = JMVAEGuide(encoder, {site: nn.mlp(size, 4) for site, size in sizes.items()}, sizes)
    y2 = torch.tensor([[1.0], [torch.nan]]).repeat(200, 1)
    data = {"x": torch.zeros(400, *IMAGE), "y1": torch.eye(3)[torch.zeros(400, dtype=torch.long)], "y2": y2}
    with pyro.validation_enabled(False):
        replicated = replicate(model, guide, data)
    assert (replicated.drawn["y1"].sum(-1) == 1).all()
    assert (replicated.drawn["y1"] != data["y1"]).any()
    assert torch.equal(replicated.drawn["y2"].isnan(), y2.isnan())
    assert set(replicated.drawn["y2"][::2].flatten().tolist()) == {0.0, 1.0}


def test_deterministic_sites_are_neither_data_nor_latent():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.deterministic("twice", 2 * z)
            pyro.sample("x", dist.Normal(2 * z, 0.1), obs=x)

    def guide(x):
        with pyro.plate("others", len(x)):
            z = pyro.sample("z", dist.Normal(x, 1.0))
            pyro.deterministic("thrice", 3 * z)

    assert set(replicate(model, guide, {"x": torch.zeros(5)}).latents) == {"z"}
    replicated = replicate(model, None, {"x": torch.zeros(5)})
    assert set(replicated.drawn) == set(replicated.observed) == {"x"}
    assert set(replicated.latents) == {"z"}
    torch.testing.assert_close(replicated.drawn["x"], 2 * replicated.latents["z"], rtol=0, atol=0.6)


def test_parts_make_the_whole_each_with_its_own_data():
    """With next to no noise each replicate is its datum, so that order and number can be seen."""
    model = LinearGaussian().requires_grad_(False)
    model.scale = 1e-3
    guide = ExactGuide(model).requires_grad_(False)
    x = model.bias + torch.randn(23, 2) @ model.weight.T
    for size in (1, 5, 23, 100, None):
        replicated = in_parts(model, guide, {"x": x}, size)
        torch.testing.assert_close(replicated.drawn["x"], x, rtol=0, atol=0.05)
        assert torch.equal(replicated.observed["x"], x)
        assert replicated.latents["z"].shape == (23, 2)


def test_grey_data_are_drawn_black_or_white_where_the_storys_are(vae):
    model, guide = vae
    model.likelihood = grey_bernoulli
    x = torch.rand(1, *IMAGE).expand(20_000, *IMAGE)
    replicated = replicate(model, guide, {"x": x})
    seen = as_drawn(x, replicated.drawn["x"])
    assert set(seen.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(seen.mean(0), x[0], rtol=0, atol=0.02)
    assert as_drawn(seen, replicated.drawn["x"]) is seen
    assert as_drawn(x, torch.rand(3)) is x
    assert as_drawn(3 * x, seen).max() > 1  # counts, not grey pixels


def test_categories_are_one_hot_in_a_prior_replicate():
    model, _ = linear_mixture()
    y = replicate(model, None, {"x": torch.zeros(9000, 4)}).latents["y"]
    torch.testing.assert_close(y.mean(0).double(), torch.full((KINDS,), 1 / 3), rtol=0, atol=0.02)
