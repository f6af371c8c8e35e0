"""The two parts of the ELBO's gap against stories where both have closed forms."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from guides.gmvae import GMVAEGuide
from pyro_models.data import Split
from pyro_models.likelihood.inference_gap import climb, gap, of_its_own
from tests.linear_gaussian import ExactGuide, LinearGaussian
from tests.linear_mixture import SCALE, joint_of_kinds, linear_mixture


class DiagonalGuide(torch.nn.Module):
    """Normal(posterior's loc + shift, scale), whatever the posterior's covariance."""

    def __init__(self, model, shift=0.4, scale=0.9):
        super().__init__()
        self.exact = ExactGuide(model)
        self.shift, self.scale = shift, scale

    def forward(self, x, *, batch=1):
        loc = self.exact.posterior(x).mean.detach() + self.shift
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, self.scale).to_event(1))


def best_diagonal(precision):
    """The scales of the Normal without correlations that is nearest to a posterior, and KL(it || the posterior)."""
    diagonal = precision.diagonal(dim1=-2, dim2=-1)
    return diagonal.rsqrt(), (diagonal.log().sum(-1) - torch.logdet(precision)) / 2


@pytest.fixture
def model():
    model = LinearGaussian()
    with torch.no_grad():
        model.weight[:] = torch.tensor([[1.0, 0.3], [0.3, 0.8], [0.3, -0.2]])  # a posterior with correlated codes
    return model


@pytest.fixture
def rows(model):
    return model(batch=25).detach()


def test_both_parts_have_the_closed_forms_of_a_linear_story(model, rows):
    guide = DiagonalGuide(model)
    found = gap(model, guide, Split(rows), "grey", samples=401, draws=130, steps=150)  # with a share of 1
    assert all(values.shape == (25,) for values in found.values())
    posterior = guide.exact.posterior(rows)
    diagonal = dist.MultivariateNormal(posterior.mean + guide.shift, guide.scale**2 * torch.eye(2))
    whole = kl_divergence(diagonal, posterior)
    _, stays = best_diagonal(posterior.precision_matrix)
    assert stays.min() > 0.02
    for name, exact in (
        ("elbo", model.evidence(rows) - whole),
        ("gap", whole),
        ("amortisation", whole - stays),
        ("approximation", stays),
    ):
        torch.testing.assert_close(found[name].mean(), exact.mean(), rtol=0, atol=0.08, msg=name)
        torch.testing.assert_close(found[name], exact, rtol=0, atol=0.5)
    torch.testing.assert_close(found["gap"], found["amortisation"] + found["approximation"])


def test_what_is_fitted_is_the_best_member_of_the_family(model, rows):
    guide = DiagonalGuide(model)
    with torch.no_grad():
        best, (loc, log_scale) = of_its_own(guide, rows)
    climb(model, best, rows, [loc, log_scale], 300, 0.03)
    posterior = guide.exact.posterior(rows)
    scale, _ = best_diagonal(posterior.precision_matrix)
    torch.testing.assert_close(loc[0], posterior.mean, rtol=0, atol=0.12)
    torch.testing.assert_close(log_scale[0].exp(), scale.expand(25, 2), rtol=0.15, atol=0)


def test_it_starts_at_the_guide(model, rows):
    """With no step taken nothing is gained."""
    found = gap(model, DiagonalGuide(model), Split(rows), "grey", samples=3000, steps=0)
    assert found["amortisation"].mean().item() == pytest.approx(0.0, abs=0.06)


def test_nothing_stays_where_the_family_holds_the_posterior(model, rows):
    with torch.no_grad():
        model.weight[:] = torch.tensor([[1.0, 1.0], [2.0, -1.0], [1.0, 1.0]])  # orthogonal columns: no correlations
    found = gap(model, DiagonalGuide(model), Split(rows), "grey", samples=2000, steps=200)
    assert found["approximation"].mean().item() == pytest.approx(0.0, abs=0.02)
    assert found["amortisation"].mean() > 0.5


def test_discrete_sites_have_logits_of_their_own_and_the_others_a_member_for_each_value():
    """The best q(y) is p(x, y) exp(-KL_y), normalised, KL_y being what the best q(z | y) lacks."""
    model, guide = linear_mixture()
    assert isinstance(guide, GMVAEGuide)
    x = model(batch=8).detach()
    found = gap(model, guide, Split(x), "grey", samples=2001, steps=200, draws=8 * 500)
    prior, weight = model.prior(torch.eye(3)).base_dist, model.decoder.weight
    precision = prior.scale.square().reciprocal().diag_embed() + weight.T @ weight / SCALE**2
    _, lacks = best_diagonal(precision)
    joint = joint_of_kinds(model, x)
    best = (joint - lacks).logsumexp(-1)
    assert found["approximation"].mean().item() == pytest.approx((joint.logsumexp(-1) - best).mean().item(), abs=0.03)
    assert (found["elbo"] + found["amortisation"]).mean().item() == pytest.approx(best.mean().item(), abs=0.03)
    assert found["amortisation"].mean() > 0.5


def test_the_weights_of_the_pair_stay_as_they_are(vae):
    model, guide = vae
    before = [parameter.clone() for half in vae for parameter in half.parameters()]
    split = Split(torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8))
    gap(model, guide, split, "dynamic", samples=2, steps=3)
    after = [parameter for half in vae for parameter in half.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(parameter.grad is None for parameter in after)
    assert model.training
    assert guide.training


def test_a_family_that_is_not_known_is_named(model, rows):
    with pytest.raises(ValueError, match="site 'z' is neither Normal nor discrete"):
        gap(model, ExactGuide(model), Split(rows), "grey")


def test_a_guide_whose_normal_sites_depend_on_each_other_is_refused():
    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x, 1.0))
            pyro.sample("w", dist.Normal(z, 1.0))

    with pytest.raises(ValueError, match="'w' depends on what another drew"):
        of_its_own(guide, torch.zeros(3))
