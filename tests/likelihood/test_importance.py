"""Importance-sampled log p(x) against stories whose evidence is known."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_models.likelihood import importance as module
from pyro_models.likelihood.importance import UntrustedEstimate, evidence, log_likelihood, pareto_k
from tests.linear_gaussian import ExactGuide, LinearGaussian
from tests.linear_mixture import COLUMNS, KINDS, SCALE, joint_of_kinds, linear_mixture

pytestmark = pytest.mark.filterwarnings("ignore::pyro_models.likelihood.importance.UntrustedEstimate")


@pytest.fixture
def model():
    return LinearGaussian()


@pytest.fixture
def rows(model):
    return model(batch=13).detach()


@pytest.mark.parametrize(("samples", "draws"), [(2, 1), (2, 1000), (99, 30), (250, 300), (250, 10_000)])
def test_at_the_exact_posterior_every_weight_is_the_evidence(model, rows, samples, draws):
    estimate = evidence(model, ExactGuide(model), {"x": rows}, samples=samples, draws=draws)
    torch.testing.assert_close(estimate.log_p, model.evidence(rows))
    torch.testing.assert_close(estimate.effective, torch.full((13,), float(samples)))
    torch.testing.assert_close(estimate.error, torch.zeros(13), rtol=0, atol=1e-6)


def test_the_error_of_a_single_draw_is_not_known(model, rows):
    estimate = evidence(model, ExactGuide(model), {"x": rows}, samples=1)
    torch.testing.assert_close(estimate.log_p, model.evidence(rows))
    assert estimate.error.isnan().all()


class SureGuide(torch.nn.Module):
    """q(y | x) as wrong as can be, and z at its exact posterior given x and y."""

    def __init__(self, model):
        super().__init__()
        self.model = [model]

    def forward(self, x, *, batch=1):
        (model,) = self.model
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=torch.tensor([9.0, 0.0, -9.0]).expand(len(x), KINDS)))
            prior, weight = model.prior(y).base_dist, model.decoder.weight
            precision = prior.scale.square().reciprocal().diag_embed() + weight.T @ weight / SCALE**2
            pull = prior.loc / prior.scale.square() + (x - model.decoder.bias) @ weight / SCALE**2
            loc = torch.linalg.solve(precision, pull.unsqueeze(-1)).squeeze(-1)
            pyro.sample("z", dist.MultivariateNormal(loc, precision_matrix=precision))


def test_discrete_sites_are_summed_over():
    model, _ = linear_mixture()
    x = model(batch=9).detach()
    estimate = evidence(model, SureGuide(model), {"x": x}, samples=7)
    torch.testing.assert_close(estimate.log_p, joint_of_kinds(model, x).logsumexp(-1))
    torch.testing.assert_close(estimate.effective, torch.full((9,), 7.0))


def test_a_mixture_with_an_untrained_guide():
    model, guide = linear_mixture()
    x = model(batch=5).detach()
    estimate = evidence(model, guide, {"x": x}, samples=50_000, draws=20_000)
    deviations = (estimate.log_p - joint_of_kinds(model, x).logsumexp(-1)) / estimate.error
    assert x.shape == (5, COLUMNS)
    assert (estimate.error < 0.1).all()
    assert (deviations.abs() < 4).all()


def test_with_a_poor_guide_it_rises_to_the_evidence_as_samples_grow(model):
    guide, x = ExactGuide(model, shift=0.2), model(batch=300).detach()
    short = [
        (model.evidence(x) - log_likelihood(model, guide, {"x": x}, samples=samples, draws=60_000)).mean().item()
        for samples in (1, 4, 30, 3_000)
    ]
    assert short[0] > short[1] > short[2] > 0
    assert abs(short[3]) < 0.01


def test_error_and_effective_size_are_what_many_repetitions_show(model, rows):
    """Of log p(x): its spread. Of the weights: 1 + their variance at mean 1 is E w^2 = exp(chi-square divergence)."""
    shift, samples = 0.12, 400
    guide = ExactGuide(model, shift=shift)
    estimates = [evidence(model, guide, {"x": rows}, samples=samples, seed=seed, draws=13 * 400) for seed in range(150)]
    spread = torch.stack([each.log_p for each in estimates]).std(0)
    error = torch.stack([each.error for each in estimates]).mean(0)
    torch.testing.assert_close(error, spread, rtol=0.2, atol=0)
    move = torch.full((2,), shift)
    precision = guide.posterior(rows).precision_matrix[0]
    second_moment = (move @ precision @ move).exp()  # of p / q for two normals that differ in loc alone
    share = torch.stack([each.effective for each in estimates]).mean() / samples
    assert share.item() == pytest.approx(1 / second_moment.item(), rel=0.03)


@pytest.mark.parametrize("draws", [1, 7, 64, 10**6])
def test_the_same_weights_give_the_same_whatever_the_batches(monkeypatch, draws):
    """The weights stand in a table of data and samples, from which each call takes the next of its data."""
    table, done = 3 * torch.randn(101, 11) - 90, torch.zeros(11, dtype=torch.long)

    def from_table(model, guide, *args, particles, hidden, x):
        (first, *_), start = x[:, 0].long().tolist(), int(done[x[:, 0].long()[0]])
        done[first : first + len(x)] += particles
        assert particles * len(x) <= max(draws, len(x))
        return table[start : start + particles, first : first + len(x)]

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([1]).to_event(1), obs=x)

    monkeypatch.setattr(module, "log_weights", from_table)
    data = {"x": torch.arange(11.0)[:, None]}
    estimate = evidence(model, lambda x: None, data, samples=101, draws=draws)
    assert (done == 101).all()
    torch.testing.assert_close(estimate.log_p, table.logsumexp(0) - math.log(101))
    weights = table.softmax(0)
    torch.testing.assert_close(estimate.effective, 1 / weights.square().sum(0))


@pytest.mark.parametrize("samples", [3, 50, 5000])
def test_the_latents_decoded_at_a_time_do_not_grow_with_the_samples(vae, samples):
    model, guide = vae
    evidence(model, guide, {"x": torch.zeros(3, 1, 4, 4)}, samples=2)  # the first time, the pair is tried out
    decoded = []
    model.decoder.register_forward_pre_hook(lambda _, given: decoded.append(given[0].shape[:-1].numel()))
    x = torch.bernoulli(torch.rand(23, 1, 4, 4))
    evidence(model, guide, {"x": x}, samples=samples, draws=500)
    del decoded[:6]  # to see what is observed, and whether the data can be cut: of all, and of two at either end
    assert max(decoded) <= 500
    assert sum(decoded) == 23 * samples
    assert len(decoded) < 1.3 * (23 * samples / 500 + 1)  # and never datum by datum


def test_the_noise_follows_from_the_seed_and_none_other_is_touched(model, rows):
    guide, state = ExactGuide(model, shift=0.5), torch.random.get_rng_state()
    first = evidence(model, guide, {"x": rows}, samples=20)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(evidence(model, guide, {"x": rows}, samples=20).effective, first.effective)
    assert not torch.equal(evidence(model, guide, {"x": rows}, samples=20, seed=1).log_p, first.log_p)


class TwoSites(torch.nn.Module):
    """z ~ Normal(0, I), x ~ Normal(W z, s), w ~ Normal(V z, t): the evidence of either site has a closed form."""

    def __init__(self):
        super().__init__()
        self.x = LinearGaussian()
        self.w = LinearGaussian()
        self.w.scale = 0.4

    def forward(self, x=None, w=None, *, batch=1):
        given = [value for value in (x, w) if value is not None]
        with pyro.plate("data", len(given[0]) if given else batch):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            for name, value in (("x", x), ("w", w)):
                part = getattr(self, name)
                likelihood = dist.Normal(z @ part.weight.T + part.bias, part.scale).to_event(1)
                pyro.sample(name, likelihood, obs=value)

    def posterior(self, x, w):
        precision, pull = torch.eye(2), 0.0
        for part, value in ((self.x, x), (self.w, w)):
            precision = precision + part.weight.T @ part.weight / part.scale**2
            pull = pull + (value - part.bias) @ part.weight / part.scale**2
        return dist.MultivariateNormal(pull @ torch.linalg.inv(precision), precision_matrix=precision)


@pytest.fixture
def two_sites():
    model = TwoSites().requires_grad_(False)
    with pyro.poutine.trace() as trace:
        model(batch=8)
    return model, {name: trace.trace.nodes[name]["value"] for name in ("x", "w")}


@pytest.mark.parametrize("target", ["x", "w"])
def test_other_observed_sites_are_marginalised_exactly(two_sites, target):
    """With the posterior given the target alone every weight is the evidence of the target."""
    model, data = two_sites
    part = getattr(model, target)
    exact = ExactGuide(part).requires_grad_(False)
    estimate = evidence(model, lambda **given: exact(given[target]), data, target=target, samples=20)
    torch.testing.assert_close(estimate.log_p, part.evidence(data[target]))
    torch.testing.assert_close(estimate.effective, torch.full((8,), 20.0))


def test_the_guide_is_given_the_sites_that_are_marginalised(two_sites):
    """Its draws are from the posterior given both; the estimate is of the target all the same."""
    model, data = two_sites

    def guide(x, w):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(model.posterior(x, w).loc, 0.3 * torch.eye(2)))

    estimate = evidence(model, guide, data, target="x", samples=50_000, draws=400_000)
    expected = model.x.evidence(data["x"])
    assert ((estimate.log_p - expected).abs() < 4 * estimate.error + 1e-3).all()
    assert (estimate.error < 0.1).all()


def test_a_site_above_the_target_is_marginalised_by_its_prior():
    """p(x) = E p(x | y) over y ~ Bernoulli(0.3), and each draw has a y of its own."""

    def model(x=None, y=None):
        with pyro.plate("data", 4):
            y = pyro.sample("y", dist.Bernoulli(0.3), obs=y)
            pyro.sample("x", dist.Normal(2 * y, 1.0), obs=x)

    x = torch.tensor([-1.0, 0.0, 1.0, 2.0])
    data = {"x": x, "y": torch.ones(4)}
    estimate = evidence(model, lambda x, y: None, data, target="x", samples=40_000, draws=400_000)
    expected = (0.3 * dist.Normal(2.0, 1.0).log_prob(x).exp() + 0.7 * dist.Normal(0.0, 1.0).log_prob(x).exp()).log()
    torch.testing.assert_close(estimate.log_p, expected, rtol=0, atol=0.02)
    assert ((estimate.log_p - expected).abs() < 4 * estimate.error + 1e-6).all()


def test_a_target_that_is_not_observed_and_a_site_that_cannot_be_left_out_are_named(two_sites):
    model, data = two_sites
    with pytest.raises(ValueError, match=r"site 'z' is not observed: the observed sites are \['w', 'x'\]"):
        evidence(model, lambda **given: None, data, target="z")

    def renamed(x, words):
        model(x=x, w=words)

    with pytest.raises(
        ValueError, match=r"site 'w' is observed and is no argument: it cannot be left out of log p\(x\)"
    ):
        evidence(renamed, lambda **given: None, {"x": data["x"], "words": data["w"]}, target="x")


def test_factors_and_deterministic_sites_stay_in_the_model(model, rows):
    def with_factor(x):
        z = model(x)
        with pyro.plate("data", len(x)):
            pyro.deterministic("twice", 2 * z, event_dim=1)
            pyro.factor("factor", torch.full((len(x),), -3.0))

    estimate = log_likelihood(with_factor, ExactGuide(model), {"x": rows}, samples=5)
    torch.testing.assert_close(estimate, model.evidence(rows) - 3.0)


def shared_latent(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def shared_guide(x, shift=0.0, widen=1.0):
    pyro.sample("loc", dist.Normal(x.sum() / (len(x) + 1) + shift, widen * (len(x) + 1) ** -0.5))


def test_where_a_latent_is_shared_the_estimate_is_of_all_data_together():
    x = torch.randn(6)
    joint = dist.MultivariateNormal(torch.zeros(6), torch.eye(6) + torch.ones(6, 6)).log_prob(x)
    for data in ({"x": x}, (x,), x):
        torch.testing.assert_close(log_likelihood(shared_latent, shared_guide, data, samples=3), joint.reshape(1))
    estimate = evidence(shared_latent, partial(shared_guide, widen=1.5), x, samples=4000)
    assert abs(estimate.log_p - joint) < 4 * estimate.error
    assert (estimate.pareto_k < 0.7).all()


def test_an_estimate_that_cannot_be_trusted_says_so():
    x = torch.randn(6)
    with pytest.warns(UntrustedEstimate, match=r"100% of 1 estimates of log p cannot be trusted"):
        estimate = evidence(shared_latent, partial(shared_guide, shift=2.0, widen=0.5), x, samples=500)
    assert estimate.untrusted.all()
    assert evidence(shared_latent, shared_guide, x, samples=500).pareto_k == -math.inf  # of equal weights


def test_the_shape_of_a_tail_is_found():
    for shape in (0.3, 0.6, 0.9):
        weights = dist.Pareto(torch.ones(20), 1 / shape).sample((4000,)).log()
        tails = weights.sort(0, descending=True).values[:190].T
        assert torch.tensor([pareto_k(tail) for tail in tails]).mean() == pytest.approx(shape, abs=0.1)


@pytest.mark.parametrize("reading", ["standardised", "one after the other"])
def test_a_pair_that_reads_all_its_data_is_not_cut_into_batches(reading):
    """Each datum's evidence, at the exact posterior, is of the residual that the whole of the data leaves of it."""
    x = torch.linspace(-1.0, 3.0, 50, dtype=torch.float64) ** 2

    def residual(x):
        return (x - x.mean()) / x.std() if reading == "standardised" else x - torch.cat([x[:1], x[:-1]])

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=residual(x))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(residual(x) / 2, 0.5**0.5))

    log_p = log_likelihood(model, guide, {"x": x}, samples=100, draws=500)
    torch.testing.assert_close(log_p, dist.Normal(0.0, 2**0.5).log_prob(residual(x)))
