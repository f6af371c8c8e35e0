from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule

from pyro_models.base.errors import UserError
from pyro_models.distributions import ProductOfNormals
from pyro_models.objectives import (
    ESTIMATORS,
    ScaleSites,
    dreg,
    enum,
    free_bits,
    graph,
    iwae,
    log_weights,
    mean_field,
    renyi,
    rws,
    scaled,
    trace,
)
from pyro_models.objectives.estimators import kl_of
from tests.linear_gaussian import ExactGuide, LinearGaussian


def gradients(*modules):
    return [p.grad.clone() for module in modules for p in module.parameters()]


@pytest.mark.parametrize(
    "estimator",
    [trace, partial(trace, particles=3), partial(iwae, particles=4), partial(renyi, particles=4, alpha=0.3)],
)
def test_at_the_exact_posterior_every_draw_of_every_bound_is_the_log_evidence(estimator):
    model = LinearGaussian()
    x = model(batch=5).detach()
    loss = estimator(model, ExactGuide(model), x=x)["loss"]
    torch.testing.assert_close(-loss, model.evidence(x).mean())


@pytest.mark.parametrize("dims", [0, 1, 2])
def test_the_divergence_of_normals_is_torchs(dims):
    product = ProductOfNormals(torch.randn(3, 2, 4), torch.rand(3, 2, 4) + 0.1, dim=-2)
    normal = dist.Normal(torch.randn(3, 4), torch.rand(3, 4) + 0.1)
    of_torch = torch.distributions.Normal(normal.loc + 1.0, normal.scale)
    for q, p in ((product, normal), (normal, product), (normal, normal), (of_torch, normal)):
        q, p = dist.Independent(q, dims), dist.Independent(p, dims)
        torch.testing.assert_close(kl_of(q, p), torch.distributions.kl_divergence(q, p))


@pytest.mark.parametrize("log_scale", [-80.0, -45.0, -1.0, 40.0])
def test_one_datum_of_a_tiny_scale_leaves_all_gradients_finite(log_scale):
    class Pair(PyroModule):
        def __init__(self):
            super().__init__()
            self.loc, self.log_scale = (torch.nn.Parameter(torch.tensor(v)) for v in ([1.0, 40.0], [0.0, log_scale]))

        def model(self, x):
            with pyro.plate("data", 2):
                z = pyro.sample("z", dist.Normal(torch.tensor(0.0), 1.0))
                pyro.sample("x", dist.Normal(0.0 * z, 1.0), obs=x)

        def guide(self, x):
            with pyro.plate("data", 2):
                pyro.sample("z", dist.Normal(self.loc, self.log_scale.exp()))

    torch.set_default_dtype(torch.float32)  # whose least number is 1e-38: as users train
    pair = Pair()
    mean_field(pair.model, pair.guide, torch.zeros(2))["loss"].backward()
    torch.testing.assert_close(pair.loc.grad, pair.loc.detach() / 2)
    torch.testing.assert_close(pair.log_scale.grad, ((2 * pair.log_scale.detach()).exp() - 1) / 2)


def test_importance_weights_at_the_exact_posterior_are_the_evidence_of_each_datum():
    model = LinearGaussian()
    x = model(batch=5).detach()
    weights = log_weights(model, ExactGuide(model), particles=6, x=x)
    torch.testing.assert_close(weights, model.evidence(x).expand(6, 5))


@pytest.mark.parametrize(
    ("ours", "pyros", "particles"),
    [
        (trace, Trace_ELBO, 1),
        (trace, Trace_ELBO, 3),
        (mean_field, TraceMeanField_ELBO, 1),
        (mean_field, TraceMeanField_ELBO, 3),
        (partial(iwae), partial(RenyiELBO, alpha=0), 3),
        (partial(renyi, alpha=0.4), partial(RenyiELBO, alpha=0.4), 3),
        (partial(renyi, alpha=2.0), partial(RenyiELBO, alpha=2.0), 3),
    ],
)
def test_values_and_gradients_are_those_of_pyros_estimators(vae, x, ours, pyros, particles):
    torch.manual_seed(1)
    loss = ours(*vae, particles=particles, x=x)["loss"]
    loss.backward()
    mine = gradients(*vae)
    for module in vae:
        module.zero_grad()
    torch.manual_seed(1)
    # Pyro counts its plate of particles from the right of max_plate_nesting
    elbo = pyros(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1 + (particles > 1))
    theirs = elbo.loss_and_grads(*vae, x=x)
    torch.testing.assert_close(loss.item() * len(x), theirs)
    for one, other in zip(mine, gradients(*vae), strict=True):
        torch.testing.assert_close(one * len(x), other)


def test_trace_and_mean_field_agree_in_expectation(vae, x):
    draws = [estimator(*vae, particles=20_000, x=x)["elbo"] for estimator in (trace, mean_field)]
    torch.testing.assert_close(*draws, rtol=0, atol=0.02)


def test_terms_add_up_with_their_signs(vae, x):
    for estimator in (trace, mean_field, partial(iwae, particles=3), partial(renyi, particles=3)):
        terms = estimator(*vae, x=x)
        torch.testing.assert_close(terms["elbo"], terms["reconstruction"] - terms["kl"])
        assert terms["reconstruction"] < 0 < mean_field(*vae, x=x)["kl"]
    assert set(iwae(*vae, x=x)) == {"loss", "elbo", "reconstruction", "kl", "iwae"}


def test_the_analytic_kl_is_the_integral(vae, x):
    _, guide = vae
    q = guide.posterior(x).base_dist
    expected = 0.5 * (q.loc**2 + q.scale**2 - 1) - q.scale.log()
    torch.testing.assert_close(mean_field(*vae, x=x)["kl"], expected.sum(-1).mean())


def test_iwae_is_the_brute_force_average_of_weights(vae, x):
    model, guide = vae
    torch.manual_seed(3)
    bound = iwae(model, guide, particles=4, x=x)["iwae"]
    torch.manual_seed(3)
    q = guide.posterior(x).expand((4, len(x)))
    z = q.rsample()
    likelihood = dist.Bernoulli(logits=model.decoder(z)).log_prob(x).sum((-1, -2, -3))
    weights = (likelihood + dist.Normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z)).exp()
    torch.testing.assert_close(bound, weights.mean(0).log().mean())


def test_bounds_rise_with_particles_and_fall_with_alpha_below_the_evidence():
    model = LinearGaussian()
    x = model(batch=3).detach()
    guide = ExactGuide(model, shift=0.4)
    data = {"x": x.repeat(4000, 1)}
    evidence = model.evidence(x).mean()
    bounds = [trace(model, guide, **data)["elbo"]]
    bounds += [renyi(model, guide, particles=8, alpha=0.5, **data)["renyi"]]
    bounds += [iwae(model, guide, particles=8, **data)["iwae"]]
    bounds += [iwae(model, guide, particles=64, **data)["iwae"]]
    values = [bound.item() for bound in [*bounds, evidence]]
    assert values == sorted(values)
    # the gap of the ELBO is KL(q || posterior) in closed form
    exact, moved = ExactGuide(model).posterior(x), guide.posterior(x)
    kl = torch.distributions.kl_divergence(moved, exact).mean()
    torch.testing.assert_close(evidence - bounds[0], kl, rtol=0.05, atol=0)


def test_the_derivative_of_the_loss_by_beta_is_the_kl(vae, x):
    losses = []
    for beta in (1.0, 3.0):
        torch.manual_seed(5)
        terms = scaled(mean_field, {"z": beta})(*vae, x=x)
        losses.append(terms["loss"])
        torch.testing.assert_close(terms["elbo"], terms["reconstruction"] - terms["kl"])
    torch.testing.assert_close((losses[1] - losses[0]) / 2, terms["kl"])


@pytest.mark.parametrize("estimator", [Trace_ELBO, TraceMeanField_ELBO])
def test_beta_does_the_same_to_pyros_estimators(vae, x, estimator):
    torch.manual_seed(2)
    with ScaleSites({"z": 4.0}):
        theirs = estimator(max_plate_nesting=1).loss(*vae, x=x)
    torch.manual_seed(2)
    ours = scaled(trace if estimator is Trace_ELBO else mean_field, {"z": 4.0})(*vae, x=x)["loss"]
    torch.testing.assert_close(ours.item() * len(x), theirs)


def test_a_beta_of_one_leaves_the_objective_as_it_is():
    assert scaled(trace, {"z": 1.0}) is trace


@pytest.mark.parametrize("estimator", [iwae, renyi])
def test_scaled_weights_are_refused(vae, x, estimator):
    with pytest.raises(ValueError, match="'z' is scaled by 2"):
        scaled(estimator, {"z": 2.0})(*vae, x=x)


def test_renyi_of_order_one_is_refused(vae, x):
    with pytest.raises(ValueError, match="use trace"):
        renyi(*vae, alpha=1.0, x=x)


def test_a_guide_of_another_story_is_refused(vae, x):
    model, _ = vae
    with pytest.raises(ValueError, match="'z' is latent in the model and not sampled by the guide"):
        trace(model, lambda x: None, x=x)


def test_masked_data_do_not_count(vae, x):
    model, guide = vae
    mask = torch.tensor([True] * 3 + [False] * 4)

    def masked(half):
        return lambda x: pyro.poutine.mask(half, mask=mask)(x=x)

    torch.manual_seed(4)
    terms = trace(masked(model), masked(guide), x=x)
    torch.manual_seed(4)
    theirs = Trace_ELBO(max_plate_nesting=1).loss(masked(model), masked(guide), x=x)
    torch.testing.assert_close(terms["loss"].item() * len(x), theirs)


def test_every_estimator_is_in_the_table_once():
    assert list(ESTIMATORS.values()) == [trace, mean_field, graph, enum, iwae, renyi, rws, dreg]


class Two(PyroModule):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)


class TwoGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.randn(2))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(self.loc[0], 0.5))
            pyro.sample("b", dist.Normal(self.loc[1] + a, 0.8))


def test_stories_of_two_latents_agree_with_pyro_and_scale_by_name():
    x = torch.randn(6)
    pair = Two(), TwoGuide()
    torch.manual_seed(1)
    terms = scaled(mean_field, {"a": 2.0, "b": 0.5})(*pair, x=x)
    torch.manual_seed(1)
    with ScaleSites({"a": 2.0, "b": 0.5}):
        theirs = TraceMeanField_ELBO(max_plate_nesting=1).loss(*pair, x=x)
    torch.testing.assert_close(terms["loss"].item() * 6, theirs)


@pytest.mark.parametrize("estimator", [trace, mean_field, graph])
def test_below_the_free_bits_the_divergence_is_a_constant_of_the_loss(estimator, vae, x):
    """And above them the loss is as it was; the terms are the same throughout."""
    results = []
    for nats in (0.0, 1e-6, 50.0):
        for half in vae:
            half.zero_grad()
        torch.manual_seed(1)
        terms = free_bits(estimator, {"z": nats})(*vae, x=x)
        terms["loss"].backward()
        results.append((terms, gradients(*vae)))
    plain, above, below = results
    assert plain[0]["kl"] > 1e-6
    torch.testing.assert_close(above, plain)
    torch.testing.assert_close(below[0]["loss"].detach(), 50.0 - plain[0]["reconstruction"])
    torch.testing.assert_close(below[0]["elbo"], plain[0]["elbo"])
    for half in vae:
        half.zero_grad()
    torch.manual_seed(1)
    scaled(estimator, {"z": 0.0})(*vae, x=x)["loss"].backward()
    torch.testing.assert_close(below[1], gradients(*vae))


def test_weighted_bounds_have_no_free_bits(vae, x):
    with pytest.raises(UserError, match="site 'z' has free bits: inside importance weights these bound nothing"):
        free_bits(iwae, {"z": 1.0})(*vae, x=x)
