"""Estimators of a story with a discrete site, against brute force, closed forms and Pyro's own."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import ReweightedWakeSleep, Trace_ELBO, TraceEnum_ELBO, config_enumerate

from pyro_models.objectives import (
    Relax,
    dreg,
    enum,
    graph,
    iwae,
    log_weights,
    mean_field,
    relaxed,
    renyi,
    rws,
    scaled,
    trace,
)
from pyro_models.objectives.estimators import sampled_kl
from tests.linear_mixture import KINDS, evidence, gradient, joint_of_kinds, linear_mixture


@pytest.fixture
def pair():
    return linear_mixture()


@pytest.fixture
def x(pair):
    return pair[0](batch=6).detach()


def brute_force_loss(model, guide, x, seed):
    """-ELBO, one kind after the other, with the draws that `enum` makes from this seed."""
    torch.manual_seed(seed)
    noise = torch.randn(KINDS, len(x), 2)
    probabilities, total = guide.classify(x).probs, 0.0
    for k in range(KINDS):
        y = torch.eye(KINDS)[k].expand(len(x), KINDS)
        q, p = guide.posterior(x, y), model.prior(y)
        z = q.base_dist.loc + q.base_dist.scale * noise[k]
        inner = model.likelihood(model.decoder(z)).log_prob(x) - torch.distributions.kl_divergence(q, p)
        total = total + probabilities[:, k] * (inner - (probabilities[:, k] * KINDS).log())
    return -total.mean()


def test_the_enumerated_loss_and_gradient_are_the_sum_over_kinds(pair, x):
    torch.manual_seed(4)
    terms = enum(*pair, x=x)
    expected = brute_force_loss(*pair, x, seed=4)
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(gradient(terms["loss"], *pair), gradient(expected, *pair))
    torch.testing.assert_close(terms["kl"], terms["kl_y"] + terms["kl_z"])


def test_the_enumerated_loss_and_gradient_are_pyros(pair, x):
    model, guide = pair
    torch.manual_seed(2)
    ours = enum(model, guide, divergence=sampled_kl, x=x)["loss"] * len(x)
    torch.manual_seed(2)
    theirs = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, config_enumerate(guide, "parallel"), x=x)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient(ours, *pair), gradient(theirs, *pair))


def test_two_enumerated_sites_of_which_one_depends_on_the_other():
    table = torch.randn(2, 3).softmax(-1)

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.OneHotCategorical(torch.tensor([0.3, 0.7])))
            b = pyro.sample("b", dist.OneHotCategorical(a @ table))
            pyro.sample("x", dist.Normal((a @ torch.tensor([1.0, -1.0])) + b @ torch.arange(3.0), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.OneHotCategorical(torch.tensor([0.5, 0.5])))
            pyro.sample("b", dist.OneHotCategorical(torch.tensor([0.2, 0.3, 0.5])))

    x = torch.randn(5)
    theirs = TraceEnum_ELBO(max_plate_nesting=1).loss(model, config_enumerate(guide, "parallel"), x=x)
    torch.testing.assert_close(enum(model, guide, x=x)["loss"].item() * 5, float(theirs))


def test_beta_weighs_the_code_and_not_the_kind(pair, x):
    torch.manual_seed(1)
    plain = enum(*pair, x=x)
    torch.manual_seed(1)
    heavy = scaled(enum, {"z": 8.0})(*pair, x=x)
    torch.testing.assert_close(heavy["loss"] - plain["loss"], 7 * plain["kl_z"])
    torch.testing.assert_close(heavy["elbo"], plain["elbo"])


@pytest.mark.parametrize(
    ("estimator", "name"),
    [
        (enum, "elbo"),
        (graph, "elbo"),
        (partial(rws, particles=20), "iwae"),
        (relaxed(trace, 0.5), "elbo"),
        (relaxed(partial(iwae, particles=20), 0.5), "iwae"),
        (relaxed(partial(renyi, particles=20), 0.5), "renyi"),
        (relaxed(partial(dreg, particles=20), 0.5), "iwae"),
    ],
)
def test_no_bound_exceeds_the_evidence(pair, x, estimator, name):
    """The relaxed ones bound another story's evidence, which here, with linear nets, is estimated by many draws."""
    many = x.repeat(2000, 1)
    bound = estimator(*pair, x=many)[name]
    if name == "elbo" or estimator.func is rws if isinstance(estimator, partial) else estimator in (enum, graph):
        limit = evidence(pair[0], x).mean()
    else:
        limit = relaxed(partial(iwae, particles=5000), 0.5)(*pair, x=x)["iwae"]
    assert bound < limit + 0.02


def test_with_the_exact_posterior_the_enumerated_bound_is_the_evidence(pair, x):
    """q(y | x) exact and many particles for z: what is left of the gap is the guide's z."""
    model, guide = pair
    exact = joint_of_kinds(model, x).log_softmax(-1)
    guide.classify = lambda x: dist.OneHotCategorical(logits=exact)
    prior, weight = model.prior(torch.eye(KINDS)).base_dist, model.decoder.weight

    def posterior(x, y):
        loc, scale = (y[..., None, :] @ prior.loc).squeeze(-2), (y[..., None, :] @ prior.scale).squeeze(-2)
        precision = torch.diag_embed(scale**-2) + weight.T @ weight / 0.7**2
        shift = (loc / scale**2 + (x - model.decoder.bias) @ weight / 0.7**2)[..., None]
        return dist.MultivariateNormal(torch.linalg.solve(precision, shift)[..., 0], precision_matrix=precision)

    guide.posterior = posterior
    for estimator in (partial(enum, divergence=sampled_kl), partial(enum, divergence=sampled_kl, particles=3)):
        torch.testing.assert_close(estimator(model, guide, x=x)["elbo"], evidence(model, x).mean())
    torch.testing.assert_close(rws(model, guide, particles=4, x=x)["iwae"], evidence(model, x).mean())
    guide.classify = lambda x: dist.OneHotCategorical(logits=torch.tensor([40.0, 0.0, 0.0]).expand(len(x), KINDS))
    for particles in (1, 4):  # however sure the guide is of a kind, the weights sum over all
        weights = log_weights(model, guide, particles=particles, x=x)
        torch.testing.assert_close(weights, evidence(model, x).expand(particles, -1))


def test_the_relaxed_bound_tends_to_the_exact_one_as_the_temperature_falls(pair, x):
    """Only the discrete kl, in `mean_field`, stays what it is; with a soft y the rest is another story's."""
    many = x.repeat(8000, 1)
    exact = enum(*pair, x=many)["elbo"]
    gaps = [abs(relaxed(mean_field, t)(*pair, x=many)["elbo"] - exact) for t in (2.0, 0.5, 0.05)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.05


@pytest.mark.parametrize("particles", [1, 4])
def test_the_score_function_gradient_is_the_enumerated_one_in_expectation(pair, x, particles):
    _, guide = pair
    expected = gradient(enum(*pair, particles=2000, x=x)["loss"], guide)
    repeats = 12_000 // particles
    drawn = torch.stack(
        [gradient(graph(*pair, particles=particles, x=x.repeat(400, 1))["loss"], guide) for _ in range(repeats // 400)]
    )
    error = drawn.std(0) / len(drawn) ** 0.5
    assert ((drawn.mean(0) - expected).abs() < 5 * error + 0.01).all()


def test_the_baseline_of_several_particles_lowers_the_variance(pair, x):
    _, guide = pair

    def variance(particles, repeats):
        draws = [gradient(graph(*pair, particles=particles, x=x)["loss"], guide.classifier) for _ in range(repeats)]
        return torch.stack(draws).var(0).sum()

    assert variance(8, 80) < variance(1, 80) / 8


def test_dreg_is_iwae_in_expectation_with_less_variance(pair, x):
    _, guide = pair
    x = x.repeat(16, 1)  # many draws in a run
    draws = {
        estimator: torch.stack(
            [gradient(relaxed(partial(estimator, particles=16), 0.7)(*pair, x=x)["loss"], *pair) for _ in range(40)]
        )
        for estimator in (iwae, dreg)
    }
    error = sum(d.var(0) / len(d) for d in draws.values()).sqrt()
    assert ((draws[iwae].mean(0) - draws[dreg].mean(0)).abs() < 5 * error + 1e-9).all()
    size = sum(p.numel() for p in guide.parameters())
    variances = {estimator: d[:, -size:].var(0).sum() for estimator, d in draws.items()}
    assert variances[dreg] < variances[iwae] / 2


def test_rws_moves_both_halves_as_pyros_does(pair, x):
    """Of one datum: Pyro's normalises its weights over the whole batch at once."""
    x = x[:1]
    torch.manual_seed(3)
    loss = rws(*pair, particles=5, x=x)["loss"]
    ours = gradient(loss, *pair)
    torch.manual_seed(3)
    theirs = ReweightedWakeSleep(num_particles=5, vectorize_particles=True, max_plate_nesting=2, insomnia=1.0)
    theirs.loss_and_grads(*pair, x=x)
    parameters = [parameter for half in pair for parameter in half.parameters()]
    torch.testing.assert_close(ours, torch.cat([parameter.grad.flatten() for parameter in parameters]))


def test_relaxed_trace_is_pyros_trace_of_the_relaxed_story(pair, x):
    torch.manual_seed(3)
    ours = relaxed(trace, 0.6)(*pair, x=x)["loss"]
    torch.manual_seed(3)
    with Relax(0.6):
        theirs = Trace_ELBO(max_plate_nesting=1).differentiable_loss(*pair, x=x)
    torch.testing.assert_close(ours * len(x), theirs)
    torch.testing.assert_close(gradient(ours, *pair) * len(x), gradient(theirs, *pair))


def test_known_kinds_are_observed_and_not_drawn(pair, x):
    y = torch.eye(KINDS)[torch.arange(len(x)) % KINDS]
    joint = joint_of_kinds(pair[0], x).gather(1, y.argmax(-1, keepdim=True)).mean()
    for estimator in (trace, mean_field, enum, graph, relaxed(trace, 0.5)):
        terms = estimator(*pair, x=x, y=y)
        assert terms["elbo"] < joint + 1e-9
        assert "kl_y" not in terms
    torch.testing.assert_close(iwae(*pair, particles=50_000, x=x, y=y)["iwae"], joint, rtol=0, atol=0.02)


@pytest.mark.parametrize("estimator", [mean_field, iwae, renyi, dreg])
def test_a_discrete_site_that_no_gradient_reaches_is_refused(pair, x, estimator):
    with pytest.raises(ValueError, match=r"'y' is not reparameterised.*relax it"):
        estimator(*pair, x=x)


def test_what_bounds_nothing_is_refused(pair, x):
    with pytest.raises(ValueError, match="relaxed in one of model and guide"):
        relaxed(enum, 0.5)(*pair, x=x)
    for estimator in (rws, relaxed(dreg, 0.5)):
        with pytest.raises(ValueError, match="'z' is scaled by 8"):
            scaled(estimator, {"z": 8.0})(*pair, x=x)
    with pytest.raises(ValueError, match="above 0"):
        Relax(0.0)
