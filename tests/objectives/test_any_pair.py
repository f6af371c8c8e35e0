"""Estimators of pairs of every shape, against closed forms and Pyro's own estimators."""

import logging
import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.testing.rejection_gamma import RejectionGamma
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from torch import nn

from pyro_models.base.errors import UserError
from pyro_models.objectives import (
    ESTIMATORS,
    dreg,
    elbos,
    enum,
    graph,
    iwae,
    log_weights,
    mean_field,
    renyi,
    rws,
    trace,
)
from pyro_models.objectives.estimators import sampled_kl

WEIGHTED = (iwae, renyi, rws, dreg)


@pytest.fixture(autouse=True)
def no_parameters():
    pyro.clear_param_store()


def flat_gradient(loss, module):
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(module.parameters()))])


class Subjects:
    """Three measurements of each of five subjects: the exact posterior, so that every draw gives log p(x)."""

    def __init__(self, measurements=3, subjects=5):
        self.x = 2 * torch.randn(measurements, subjects)

    def model(self, x):
        with pyro.plate("subjects", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("measurements", len(x), dim=-2):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        variance = 1 / (1 + len(x))
        with pyro.plate("subjects", x.shape[1], dim=-1):
            pyro.sample("z", dist.Normal(variance * x.sum(0), variance**0.5))

    def evidence(self):
        n = len(self.x)
        return dist.MultivariateNormal(torch.zeros(n), torch.eye(n) + torch.ones(n, n)).log_prob(self.x.T)


@pytest.mark.parametrize("estimator", [trace, *WEIGHTED])
@pytest.mark.parametrize("shape", [(3, 5), (5, 5)], ids=["lengths differ", "of one length"])
def test_a_plate_inside_that_of_the_data_is_summed(estimator, shape):
    pair = Subjects(*shape)
    terms = estimator(pair.model, pair.guide, pair.x)
    torch.testing.assert_close(-terms["loss"], pair.evidence().mean())
    assert terms.data == shape[1]


def test_weights_and_bounds_are_those_of_each_datum_whatever_plates_are_inside():
    pair = Subjects()
    weights = log_weights(pair.model, pair.guide, pair.x, particles=4)
    torch.testing.assert_close(weights, pair.evidence().expand(4, 5))
    bounds = elbos(pair.model, pair.guide, pair.x, particles=20_000)
    torch.testing.assert_close(bounds.mean(0), pair.evidence(), rtol=0, atol=0.05)


def test_a_program_that_does_not_take_a_dimension_of_particles_is_run_once_for_each(caplog):
    pair = Subjects()

    def model(x):
        with pyro.plate("subjects", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample(
                "x", dist.Normal(z.reshape(x.shape[1]).unsqueeze(-1), 1.0).expand(x.T.shape).to_event(1), obs=x.T
            )

    with caplog.at_level(logging.WARNING, "pyro_models"):
        values = [estimator(model, pair.guide, pair.x, particles=3)["loss"] for estimator in (*WEIGHTED, trace)]
    torch.testing.assert_close(-torch.stack(values), pair.evidence().mean().expand(5))
    assert "one after the other" in caplog.text
    assert len(caplog.records) == 1  # tried once


def test_runs_one_after_the_other_are_the_run_of_all_together():
    """The same draws, by a program that refuses particles side by side and one that takes them."""
    network = nn.Linear(1, 2)
    x = torch.randn(16)  # as many as torch draws at a time, so that the draws are the same

    def guide(x):
        with pyro.plate("data", 16):
            loc, scale = network(x[:, None]).unbind(-1)
            pyro.sample("z", dist.Normal(loc, scale.exp()))

    def model(x, once):
        with pyro.plate("data", 16):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            if once:
                z = z.reshape(16)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    for estimator in (trace, mean_field, *WEIGHTED):
        losses = []
        for once in (False, True):
            torch.manual_seed(0)
            loss = estimator(partial(model, once=once), guide, x, particles=3)["loss"]
            losses.append(torch.stack([loss, *(g.sum() for g in torch.autograd.grad(loss, network.parameters()))]))
        torch.testing.assert_close(*losses)


def test_a_subsample_is_that_of_the_guide_and_stands_for_all_data():
    data = 10 * torch.randn(40)

    def model(data):
        with pyro.plate("data", 40, subsample_size=8) as i:
            z = pyro.sample("z", dist.Normal(0.0, 10.0))
            pyro.sample("x", dist.Normal(z, 0.1), obs=data[i])

    def guide(data):
        variance = 1 / (1 / 100 + 1 / 0.01)
        with pyro.plate("data", 40, subsample_size=8) as i:
            pyro.sample("z", dist.Normal(data[i] / 0.01 * variance, variance**0.5))

    for estimator in (trace, mean_field, *WEIGHTED):
        torch.manual_seed(2)
        terms = estimator(model, guide, data, particles=1)
        torch.manual_seed(2)
        kind = TraceMeanField_ELBO if estimator is mean_field else Trace_ELBO
        torch.testing.assert_close(terms["loss"].item(), kind().loss(model, guide, data) / 40)
        assert terms.data == 40


def test_a_guide_of_another_order_has_no_closed_forms():
    """z1 -> z2 -> x inferred as x -> z2 -> z1, exactly: what Pyro's closed forms give is no bound."""
    x = 1.1 * torch.randn(50)

    def model(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(0.0, 1.0))
            z2 = pyro.sample("z2", dist.Normal(z1, 0.3))
            pyro.sample("x", dist.Normal(z2, 0.3), obs=x)

    def guide(x):
        first, second = 1 / (1 / 1.09 + 1 / 0.09), 1 / (1 + 1 / 0.09)
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x / 0.09 * first, first**0.5))
            pyro.sample("z1", dist.Normal(z2 / 0.09 * second, second**0.5))

    evidence = dist.Normal(0.0, math.sqrt(1.18)).log_prob(x).mean()
    for estimator in (mean_field, graph, enum):
        error = 6 / (50 * 4000) ** 0.5
        assert abs(estimator(model, guide, x, particles=4000)["elbo"] - evidence) < error


def globals_pair():
    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x):
        pyro.sample("loc", dist.Normal(x.sum() / (len(x) + 1), (len(x) + 1) ** -0.5))

    return model, guide


@pytest.mark.parametrize("estimator", [trace, *WEIGHTED])
def test_where_a_latent_is_shared_the_value_is_of_the_whole(estimator):
    x = torch.randn(7)
    terms = estimator(*globals_pair(), x)
    joint = dist.MultivariateNormal(torch.zeros(7), torch.eye(7) + torch.ones(7, 7)).log_prob(x)
    torch.testing.assert_close(-terms["loss"], joint)
    assert terms.data == 1


def test_a_named_plate_gives_the_value_per_datum_and_has_no_weights():
    x = torch.randn(7)
    torch.manual_seed(0)
    terms = trace(*globals_pair(), x, plate="data")
    torch.manual_seed(0)
    torch.testing.assert_close(terms["loss"] * 7, trace(*globals_pair(), x)["loss"])
    with pytest.raises(ValueError, match="'loc' stands outside of plate 'data'"):
        iwae(*globals_pair(), x, plate="data")
    with pytest.raises(ValueError, match=r"the plates of the pair are \['data'\]"):
        trace(*globals_pair(), x, plate="rows")


def test_a_sequential_plate_is_one_of_data_too():
    x = torch.randn(4)

    def model(x):
        for i in pyro.plate("data", 4):
            z = pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))
            pyro.sample(f"x{i}", dist.Normal(z, 1.0), obs=x[i])

    def guide(x):
        for i in pyro.plate("data", 4):
            pyro.sample(f"z{i}", dist.Normal(x[i] / 2, 0.5**0.5))

    evidence = dist.Normal(0.0, 2**0.5).log_prob(x)
    for estimator in (trace, *WEIGHTED):
        torch.testing.assert_close(-estimator(model, guide, x)["loss"], evidence.mean())
    torch.testing.assert_close(log_weights(model, guide, x, particles=2), evidence.expand(2, 4))


def positive(x):
    scale = pyro.sample("scale", dist.HalfCauchy(1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, scale))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize("family", [AutoNormal, AutoDiagonalNormal, AutoDelta])
def test_auxiliary_sites_and_points_of_guides_count_as_in_pyro(family):
    x = torch.randn(5)
    guide = family(positive)
    guide(x)
    for estimator in (trace, mean_field, iwae):
        torch.manual_seed(0)
        loss = estimator(positive, guide, x, particles=1)["loss"]
        torch.manual_seed(0)
        theirs = Trace_ELBO().differentiable_loss(positive, guide, x)
        torch.testing.assert_close(loss, theirs)
        torch.testing.assert_close(flat_gradient(loss, guide), flat_gradient(theirs, guide))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_a_guide_observes_is_a_term_of_the_loss_and_no_draw(name):
    """Its log-density has the gradient of its own, as z does not depend on it; Pyro's estimators add a score to it."""
    x, t, bias = torch.randn(4), torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.tensor(0.3, requires_grad=True)

    def model(x, t):
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.sample("t", dist.Bernoulli(logits=z), obs=t)

    def guide(x, t):
        with pyro.plate("data", 4):
            pyro.sample("t", dist.Bernoulli(logits=bias * x), obs=t, infer={"is_auxiliary": True})
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    loss = ESTIMATORS[name](model, guide, x, t)["loss"]
    sign = -1.0 if name == "rws" else 1.0  # whose guide nears what it observes
    expected = sign * torch.autograd.grad(dist.Bernoulli(logits=bias * x).log_prob(t).mean(), bias)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, bias)[0], expected)


@pytest.mark.parametrize("independent", [False, True])
def test_draws_by_rejection_have_a_path_and_a_score(independent):
    """As of Pyro's estimator at the same seed; of `to_event`, whose own score parts leave the score out, in a plate."""
    x, concentration = torch.rand(3), torch.tensor([1.5, 2.0, 3.0], requires_grad=True)

    def model(x):
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Gamma(2.0, 1.0).expand([3]))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 3):
            pyro.sample("z", RejectionGamma(concentration, torch.ones(3)))

    def events(x):
        z = pyro.sample("z", dist.Gamma(2.0, 1.0).expand([3]).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def of_events(x):
        pyro.sample("z", RejectionGamma(concentration, torch.ones(3)).to_event(1))

    pair, data = ((events, of_events), 1) if independent else ((model, guide), 3)
    pyro.set_rng_seed(0)
    loss = data * trace(*pair, x)["loss"]
    pyro.set_rng_seed(0)
    theirs = Trace_ELBO().differentiable_loss(*pair, x)
    torch.testing.assert_close(loss, theirs)
    (gradient,), (expected,) = (torch.autograd.grad(each, concentration) for each in (loss, theirs))
    if independent:  # one datum: the score of each component with the cost of all
        pyro.set_rng_seed(0)
        q = RejectionGamma(concentration, torch.ones(3))
        (score,) = torch.autograd.grad(q.score_parts(q.rsample()).score_function.sum(), concentration)
        expected = expected + loss.detach() * score
    torch.testing.assert_close(gradient, expected)
    for estimator in (mean_field, iwae, renyi, dreg):
        with pytest.raises(UserError, match="site 'z' is only in part reparameterised"):
            estimator(*pair, x)


@pytest.mark.parametrize("family", [AutoNormal, AutoDiagonalNormal])
def test_the_doubly_reparameterised_gradient_of_a_transformed_draw_is_that_of_iwae_in_expectation(family):
    x = torch.randn(3)
    guide = family(positive)
    guide(x)

    def gradients(estimator):
        draws = [
            torch.autograd.grad(estimator(positive, guide, x, particles=8)["loss"], list(guide.parameters()))
            for _ in range(60)
        ]
        return torch.stack([torch.cat([part.flatten() for part in draw]) for draw in draws])

    plain, doubly = gradients(iwae), gradients(dreg)
    error = (plain.var(0) / len(plain) + doubly.var(0) / len(doubly)).sqrt()
    assert ((plain.mean(0) - doubly.mean(0)).abs() < 5 * error).all()


def test_a_point_is_trained_by_dreg_as_by_trace_and_refused_by_rws():
    x = torch.randn(5)
    guide = AutoDelta(positive)
    guide(x)
    expected, doubly = (
        torch.autograd.grad(estimator(positive, guide, x, particles=3)["loss"], list(guide.parameters()))
        for estimator in (trace, dreg)
    )
    torch.testing.assert_close(expected, doubly)
    with pytest.raises(ValueError, match="'scale' of the guide is a point"):
        rws(positive, guide, x)


def test_factors_count_in_the_model_and_in_the_guide():
    x = torch.randn(5)

    def model(x):
        with pyro.plate("data", 5):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("x", dist.Normal(z, 1.0).log_prob(x))

    def guide(x):
        with pyro.plate("data", 5):
            z = pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
            pyro.factor("penalty", z.square(), has_rsample=True)

    torch.manual_seed(0)
    terms = trace(model, guide, x)
    torch.manual_seed(0)
    torch.testing.assert_close(terms["loss"].item(), Trace_ELBO().loss(model, guide, x) / 5)
    torch.testing.assert_close(terms["kl"], terms["kl_z"] + terms["kl_penalty"])


class Mixture(nn.Module):
    """Two groups of known weight: locally discrete, and all of it in the data's plate."""

    def __init__(self):
        super().__init__()
        self.locs, self.logits = nn.Parameter(torch.tensor([-1.0, 1.5])), nn.Parameter(torch.tensor([0.3, -0.2]))

    def model(self, x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.7])))
            pyro.sample("x", dist.Normal(self.locs[k], 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=self.logits * x[:, None]))

    def evidence(self, x):
        return (torch.tensor([0.3, 0.7]).log() + dist.Normal(self.locs, 1.0).log_prob(x[:, None])).logsumexp(-1)


def test_the_score_function_has_pyros_gradient_and_the_expected_one():
    pair, x = Mixture(), torch.randn(3)
    torch.manual_seed(0)
    loss = trace(pair.model, pair.guide, x)["loss"]
    torch.manual_seed(0)
    theirs = Trace_ELBO().differentiable_loss(pair.model, pair.guide, x) / 3
    torch.testing.assert_close(loss, theirs)
    ours, expected = (torch.autograd.grad(each, list(pair.parameters())) for each in (loss, theirs))
    torch.testing.assert_close(ours, expected)
    exact = torch.autograd.grad(enum(pair.model, pair.guide, x)["loss"], pair.logits)[0]
    draws = torch.stack(
        [
            torch.autograd.grad(trace(pair.model, pair.guide, x, particles=100)["loss"], pair.logits)[0]
            for _ in range(60)
        ]
    )
    assert ((draws.mean(0) - exact).abs() < 5 * draws.std(0) / 60**0.5).all()


def test_sites_of_the_model_alone_are_summed_out():
    pair, x = Mixture(), torch.randn(6)
    nothing = lambda x: None  # noqa: E731
    terms = enum(pair.model, nothing, x)
    torch.testing.assert_close(-terms["loss"], pair.evidence(x).mean())
    torch.testing.assert_close(log_weights(pair.model, nothing, x, particles=2), pair.evidence(x).expand(2, 6))
    with pytest.raises(ValueError, match=r"'k' is latent in the model.*use the estimator enum"):
        trace(pair.model, nothing, x)


def hidden_markov(x, memory=1):
    """A chain of 30 steps for each of some sequences, whose parameters are shared and latent."""
    stay = pyro.sample("stay", dist.Beta(2.0, 1.0))
    table = torch.stack([torch.stack([stay, 1 - stay], -1), torch.stack([1 - stay, stay], -1)], -2)
    with pyro.plate("sequences", len(x), dim=-1):
        state = torch.zeros((), dtype=torch.long)
        for t in pyro.markov(range(x.shape[1])):
            state = pyro.sample(f"s{t}", dist.Categorical(table[..., state, :]), infer={"enumerate": "parallel"})
            pyro.sample(f"x{t}", dist.Normal(state * 2.0 - 1.0, 1.0), obs=x[:, t])


def test_a_chain_is_summed_out_as_pyro_sums_it():
    x = torch.randn(4, 12)
    guide = AutoDelta(poutine.block(hidden_markov, expose=["stay"]))
    guide(x)
    terms = enum(hidden_markov, guide, x)
    theirs = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(hidden_markov, guide, x)
    torch.testing.assert_close(terms["loss"], theirs)
    ours, expected = (torch.autograd.grad(each, list(guide.parameters())) for each in (terms["loss"], theirs))
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(log_weights(hidden_markov, guide, x, particles=2), -theirs.detach().expand(2, 1))
    assert terms.data == 1


def coins(loc_of):
    def model(x):
        with pyro.plate("coins", 3):
            k = pyro.sample("k", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Normal(loc_of(k), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("coins", 3):
            pyro.sample("k", dist.Bernoulli(torch.tensor([0.2, 0.4, 0.6])))

    return model, guide


def test_a_sum_over_a_discrete_site_whose_plate_another_leaves_is_refused():
    """x depends on all coins together: no sum over each of them is the expectation. Pyro gives a number."""
    with pytest.raises(ValueError, match="'x' depends on a discrete site in plate 'coins'"):
        enum(*coins(lambda k: k.sum(-1, keepdim=True)[..., None]), torch.zeros(1))
    with pytest.raises(ValueError, match=r"'x' has events of \[1\], and of \[2\]"):
        enum(*coins(lambda k: k.sum(-1) if k.ndim > 1 else k.sum(-1, keepdim=True)), torch.zeros(1))


def test_a_discrete_site_in_an_inner_plate_is_summed_for_each_of_its_elements():
    """Words of documents: each has a topic of its own."""
    words = torch.randn(5, 3)
    topics = torch.tensor([-1.0, 1.0])

    def model(words):
        with pyro.plate("documents", 3, dim=-1):
            share = pyro.sample("share", dist.Normal(0.0, 1.0))
            with pyro.plate("words", 5, dim=-2):
                k = pyro.sample("k", dist.Bernoulli(logits=share))
                pyro.sample("word", dist.Normal(topics[k.long()], 1.0), obs=words)

    def guide(words):
        with pyro.plate("documents", 3, dim=-1):
            pyro.sample("share", dist.Normal(words.mean(0), 0.5))
            with pyro.plate("words", 5, dim=-2):
                pyro.sample("k", dist.Bernoulli(logits=words))

    torch.manual_seed(0)
    terms = enum(model, guide, words, divergence=sampled_kl)
    torch.manual_seed(0)
    theirs = TraceEnum_ELBO(max_plate_nesting=2).loss(model, config_enumerate(guide), words)
    torch.testing.assert_close(terms["loss"].item(), theirs / 3)


def test_an_undeclared_dimension_is_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    for estimator in ESTIMATORS.values():
        with pytest.raises(ValueError, match="'x' has a batch dimension of 4 at -1 that no plate declares"):
            estimator(model, guide, torch.randn(4))


def test_scales_and_masks_of_programs_count_as_in_pyro():
    model, guide = Subjects().model, Subjects().guide
    x = torch.randn(3, 6)
    mask = torch.tensor([True, True, True, False, False, True])
    pairs = [
        (poutine.scale(model, 0.5), poutine.scale(guide, 0.5)),
        (poutine.scale(model, 0.5), guide),
        (poutine.mask(model, mask), poutine.mask(guide, mask)),
        (poutine.mask(model, mask), guide),
    ]
    for pair in pairs:
        for estimator, reference in ((trace, Trace_ELBO()), (mean_field, TraceMeanField_ELBO())):
            torch.manual_seed(0)
            terms = estimator(*pair, x)
            torch.manual_seed(0)
            torch.testing.assert_close(terms["loss"].item(), reference.loss(*pair, x) / 6)
            torch.testing.assert_close(terms["loss"], -terms["elbo"])


@pytest.mark.parametrize("estimator", [graph, enum], ids=["graph", "enum"])
def test_a_guide_wider_than_the_prior_is_drawn_as_pyro_does(estimator):
    """The closed form is infinite there, and no estimate of a gradient."""

    def model():
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
        pyro.sample("x", dist.Normal(0.0, sigma), obs=torch.tensor(2.0))

    def guide():
        pyro.sample("sigma", dist.Normal(pyro.param("loc", torch.tensor(3.0)), 0.3))

    pyro.set_rng_seed(0)
    expected = Trace_ELBO().differentiable_loss(model, guide)
    pyro.set_rng_seed(0)
    loss = estimator(model, guide)["loss"]
    loss.backward()
    assert torch.allclose(loss, expected)
    assert pyro.param("loc").grad.isfinite()


class Shifted:
    """Each observation is of the latent of the next element of its plate, the last of the first's; the exact posterior.

    The plate declares its elements independent, which they are not: only all together have importance weights.
    """

    x = torch.tensor([0.5, -1.0, 2.0, 0.1, 1.5], dtype=torch.float64)

    def __init__(self, prior, posterior):
        self.prior, self.posterior = prior, posterior

    def model(self, x):
        plate = pyro.plate("time", len(x))
        with plate:
            z = pyro.sample("z", self.prior)
        with plate:
            pyro.sample("x", dist.Normal(z.roll(-1, -1), 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("time", len(x)):
            pyro.sample("z", self.posterior(x.roll(1)))


def shifted_coins():
    """Coins of a known posterior, and log p(x)."""
    double = partial(torch.tensor, dtype=torch.float64)
    x, prior = Shifted.x, double([0.7, 0.3])
    log_p = (prior.log() + dist.Normal(double([0.0, 1.0]), 1.0).log_prob(x.unsqueeze(-1))).logsumexp(-1).sum()
    return Shifted(
        dist.Bernoulli(prior[1]), lambda x: dist.Bernoulli(logits=(prior[1] / prior[0]).log() + x - 0.5)
    ), log_p


def test_data_that_read_the_latents_of_others_have_one_weight_together():
    """Where each has its own, the bounds are of no density: here they would not be log p(x), which all draws attain."""
    x = Shifted.x
    pair = Shifted(dist.Normal(0.0, 1.0), lambda x: dist.Normal(x / 2, 0.5**0.5))
    log_p = dist.Normal(0.0, 2**0.5).log_prob(x).sum()
    for estimator in WEIGHTED:
        terms = estimator(pair.model, pair.guide, x=x)
        assert terms.data == 1
        torch.testing.assert_close(terms["loss"], -log_p)
    torch.testing.assert_close(log_weights(pair.model, pair.guide, x, particles=3), log_p.expand(3, 1))
    assert trace(pair.model, pair.guide, x=x).data == len(x)


def test_discrete_sites_that_other_elements_read_are_drawn_or_refused():
    """Pyro sums over them along a dimension in which they do not vary with the element, and warns of it."""
    pair, log_p = shifted_coins()
    torch.testing.assert_close(log_weights(pair.model, pair.guide, pair.x, particles=3), log_p.expand(3, 1))
    for guide in (pair.guide, lambda x: None):
        with pytest.raises(ValueError, match="'x' depends at one element of plate 'time' on a discrete site at others"):
            enum(pair.model, guide, x=pair.x)
    with pytest.raises(ValueError, match="'x' depends at one element of plate 'time'"):
        log_weights(pair.model, lambda x: None, pair.x, particles=3)


def test_a_sum_over_the_elements_of_a_discrete_site_is_refused_by_enum():
    def model(x):
        with pyro.plate("coins", 3):
            coins = pyro.sample("coin", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Normal(coins.sum(), 1.0), obs=x)

    def guide(x):
        with pyro.plate("coins", 3):
            pyro.sample("coin", dist.Bernoulli(0.4))

    with pytest.raises(ValueError, match="'x' depends on a discrete site in plate 'coins', in which it does not stand"):
        enum(model, guide, x=torch.tensor(1.3))


@pytest.mark.parametrize("mask", [None, torch.tensor([True, False, False])])
@pytest.mark.parametrize("estimator", [graph, enum])
def test_a_prior_that_counts_in_part_has_no_closed_form(estimator, mask):
    """Of E[log q(z) - w log p(z)] that part is drawn, as Pyro's `Trace_ELBO` does, whose w is not that of q."""
    x = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    prior = dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0)

    def model(x):
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=0.5) if mask is None else poutine.mask(mask=mask):
                z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(x / 2, 0.5))

    pyro.set_rng_seed(0)
    z, q = guide(x), dist.Normal(x / 2, 0.5)
    kl = q.log_prob(z) - 0.5 * prior.log_prob(z)
    if mask is not None:
        kl = torch.where(mask, torch.distributions.kl_divergence(q, prior), q.log_prob(z))
    pyro.set_rng_seed(0)
    torch.testing.assert_close(estimator(model, guide, x=x)["kl"], kl.mean())
