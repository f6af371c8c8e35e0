"""The two parts of the ELBO's gap against stories where both have closed forms."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro_models.guides.gmvae import GMVAEGuide
from torch.distributions import kl_divergence

from pyro_models.likelihood.importance import log_likelihood
from pyro_models.likelihood.inference_gap import NoClosedFamily, datum_wise, gap, maximise
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
        model.weight[:] = torch.tensor([[1.0, 0.3], [0.3, 0.8], [0.3, -0.2]])  # a posterior with correlated latents
    return model


@pytest.fixture
def rows(model):
    return model(batch=25).detach()


def test_both_parts_have_the_closed_forms_of_a_linear_story(model, rows):
    guide = DiagonalGuide(model)
    parts = gap(model, guide, {"x": rows}, samples=401, draws=130, steps=150)  # with a share of 1
    assert all(values.shape == (25,) for values in parts.values())
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
        torch.testing.assert_close(parts[name].mean(), exact.mean(), rtol=0, atol=0.08, msg=name)
        torch.testing.assert_close(parts[name], exact, rtol=0, atol=0.5)
    torch.testing.assert_close(parts["gap"], parts["amortisation"] + parts["approximation"])


def test_the_maximum_is_the_best_member_of_the_family(model, rows):
    guide = DiagonalGuide(model)
    with torch.no_grad():
        best, (loc, log_scale) = datum_wise(model, guide, (), {"x": rows})
    maximise(model, best, (), {"x": rows}, [loc, log_scale], 300, 0.03)
    posterior = guide.exact.posterior(rows)
    scale, _ = best_diagonal(posterior.precision_matrix)
    torch.testing.assert_close(loc[0], posterior.mean, rtol=0, atol=0.12)
    torch.testing.assert_close(log_scale[0].exp(), scale.expand(25, 2), rtol=0.15, atol=0)


def test_it_starts_at_the_guide(model, rows):
    """With no step taken nothing is gained."""
    parts = gap(model, DiagonalGuide(model), {"x": rows}, samples=3000, steps=0)
    assert parts["amortisation"].mean().item() == pytest.approx(0.0, abs=0.06)


def test_the_approximation_gap_is_0_where_the_family_holds_the_posterior(model, rows):
    with torch.no_grad():
        model.weight[:] = torch.tensor([[1.0, 1.0], [2.0, -1.0], [1.0, 1.0]])  # orthogonal columns: no correlations
    parts = gap(model, DiagonalGuide(model), {"x": rows}, samples=2000, steps=200)
    assert parts["approximation"].mean().item() == pytest.approx(0.0, abs=0.02)
    assert parts["amortisation"].mean() > 0.5


def test_discrete_sites_have_logits_of_their_own_and_the_others_a_member_for_each_value():
    """The best q(y) is p(x, y) exp(-KL_y), normalised, KL_y being what the best q(z | y) lacks."""
    model, guide = linear_mixture()
    assert isinstance(guide, GMVAEGuide)
    x = model(batch=8).detach()
    parts = gap(model, guide, {"x": x}, samples=2001, steps=200, draws=8 * 500)
    prior, weight = model.prior(torch.eye(3)).base_dist, model.decoder.weight
    precision = prior.scale.square().reciprocal().diag_embed() + weight.T @ weight / SCALE**2
    _, lacks = best_diagonal(precision)
    joint = joint_of_kinds(model, x)
    best = (joint - lacks).logsumexp(-1)
    assert parts["approximation"].mean().item() == pytest.approx((joint.logsumexp(-1) - best).mean().item(), abs=0.03)
    assert (parts["elbo"] + parts["amortisation"]).mean().item() == pytest.approx(best.mean().item(), abs=0.03)
    assert parts["amortisation"].mean() > 0.5


def test_the_weights_of_the_pair_stay_as_they_are(vae):
    model, guide = vae
    before = [parameter.clone() for half in vae for parameter in half.parameters()]
    gap(model, guide, {"x": torch.bernoulli(torch.rand(5, 1, 4, 4))}, samples=2, steps=3)
    after = [parameter for half in vae for parameter in half.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(parameter.grad is None for parameter in after)
    assert model.training
    assert guide.training


def test_a_family_that_is_not_known_is_named(model, rows):
    with pytest.raises(NoClosedFamily, match="site 'z' is neither Normal nor discrete"):
        gap(model, ExactGuide(model), {"x": rows})


def test_a_guide_whose_normal_sites_depend_on_each_other_is_refused():
    """As of two levels of latents, z1 given z2: the pair has an evidence, but no gap of two parts."""

    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0))
            pyro.sample("x", dist.Normal(z1, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x / 3, (2 / 3) ** 0.5))
            pyro.sample("z1", dist.Normal((x + z2) / 2, 0.5**0.5))

    data = {"x": torch.tensor([-1.0, 0.0, 3.0])}
    torch.testing.assert_close(log_likelihood(model, guide, data), dist.Normal(0.0, 3**0.5).log_prob(data["x"]))
    with pytest.raises(NoClosedFamily, match="'z1' depends on the draw of another"):
        gap(model, guide, data)


@pytest.mark.parametrize("target", ["x", "w"])
def test_the_gap_is_that_of_the_target_alone(target):
    """Two observed sites, a guide that is given both: its elbo and gap add up to the evidence of the target."""

    def model(x=None, w=None):
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("w", dist.Normal(z, 0.5), obs=w)

    def guide(x, w):
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Normal((x + 4 * w) / 6, (1 / 6) ** 0.5))

    data = {"x": torch.tensor([-1.0, 0.5, 2.0]), "w": torch.tensor([0.0, 0.5, 1.0])}
    variance = {"x": 1.0, "w": 0.25}[target]
    parts = gap(model, guide, data, target=target, samples=4000, draws=12_000, steps=200)
    expected = dist.Normal(0.0, (1 + variance) ** 0.5).log_prob(data[target])
    posterior = dist.Normal(data[target] / (1 + variance), (variance / (1 + variance)) ** 0.5)
    whole = kl_divergence(dist.Normal((data["x"] + 4 * data["w"]) / 6, (1 / 6) ** 0.5), posterior)
    torch.testing.assert_close(parts["elbo"], expected - whole, rtol=0, atol=0.1)
    torch.testing.assert_close(parts["gap"], whole, rtol=0, atol=0.1)
    torch.testing.assert_close(parts["approximation"], torch.zeros(3), rtol=0, atol=0.05)
