"""Importance-sampled log p(x) against stories whose evidence is known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_models.data import Split, to_float
from pyro_models.likelihood import importance as likelihood
from pyro_models.likelihood.importance import evidence, log_likelihood
from tests.linear_gaussian import ExactGuide, LinearGaussian
from tests.linear_mixture import COLUMNS, KINDS, SCALE, joint_of_kinds, linear_mixture


@pytest.fixture
def model():
    return LinearGaussian()


@pytest.fixture
def rows(model):
    return Split(model(batch=13).detach())


@pytest.mark.parametrize(("samples", "draws"), [(2, 1), (2, 1000), (99, 30), (250, 300), (250, 10_000)])
def test_at_the_exact_posterior_every_weight_is_the_evidence(model, rows, samples, draws):
    found = evidence(model, ExactGuide(model), rows, "grey", samples=samples, draws=draws)
    torch.testing.assert_close(found.log_p, model.evidence(rows.x))
    torch.testing.assert_close(found.effective, torch.full((13,), float(samples)))
    torch.testing.assert_close(found.error, torch.zeros(13), rtol=0, atol=1e-6)


def test_the_error_of_a_single_draw_is_not_known(model, rows):
    found = evidence(model, ExactGuide(model), rows, "grey", samples=1)
    torch.testing.assert_close(found.log_p, model.evidence(rows.x))
    assert found.error.isnan().all()


class KindsGuide(torch.nn.Module):
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
    found = evidence(model, KindsGuide(model), Split(x), "grey", samples=7)
    torch.testing.assert_close(found.log_p, joint_of_kinds(model, x).logsumexp(-1))
    torch.testing.assert_close(found.effective, torch.full((9,), 7.0))


def test_a_mixture_with_a_guide_that_knows_nothing():
    model, guide = linear_mixture()
    x = model(batch=5).detach()
    found = evidence(model, guide, Split(x), "grey", samples=50_000, draws=20_000)
    deviations = (found.log_p - joint_of_kinds(model, x).logsumexp(-1)) / found.error
    assert x.shape == (5, COLUMNS)
    assert (found.error < 0.1).all()
    assert (deviations.abs() < 4).all()


def test_with_a_poor_guide_it_rises_to_the_evidence_as_samples_grow(model):
    guide, x = ExactGuide(model, shift=0.2), model(batch=300).detach()
    short = [
        (model.evidence(x) - log_likelihood(model, guide, Split(x), "grey", samples=samples, draws=60_000))
        .mean()
        .item()
        for samples in (1, 4, 30, 3_000)
    ]
    assert short[0] > short[1] > short[2] > 0
    assert abs(short[3]) < 0.01


def test_error_and_effective_size_are_what_many_repetitions_show(model, rows):
    """Of log p(x): its spread. Of the weights: 1 + their variance at mean 1 is E w^2 = exp(chi-square divergence)."""
    shift, samples = 0.12, 400
    guide = ExactGuide(model, shift=shift)
    found = [evidence(model, guide, rows, "grey", samples=samples, seed=seed, draws=13 * 400) for seed in range(150)]
    spread = torch.stack([one.log_p for one in found]).std(0)
    error = torch.stack([one.error for one in found]).mean(0)
    torch.testing.assert_close(error, spread, rtol=0.2, atol=0)
    move = torch.full((2,), shift)
    precision = guide.posterior(rows.x).precision_matrix[0]
    second_moment = (move @ precision @ move).exp()  # of p / q for two normals that differ in loc alone
    share = torch.stack([one.effective for one in found]).mean() / samples
    assert share.item() == pytest.approx(1 / second_moment.item(), rel=0.03)


@pytest.mark.parametrize("draws", [1, 7, 64, 10**6])
def test_the_same_weights_give_the_same_whatever_the_batches(monkeypatch, draws):
    """The weights stand in a table of data and samples, from which each call takes the next of its data."""
    table, done = 3 * torch.randn(101, 11) - 90, torch.zeros(11, dtype=torch.long)

    def from_table(model, guide, *, particles, x):
        (first, *_), start = x[:, 0].long().tolist(), int(done[x[:, 0].long()[0]])
        done[first : first + len(x)] += particles
        assert particles * len(x) <= max(draws, len(x))
        return table[start : start + particles, first : first + len(x)]

    monkeypatch.setattr(likelihood, "log_weights", from_table)
    split = Split(torch.arange(11.0)[:, None])
    found = evidence(torch.nn.Identity(), torch.nn.Identity(), split, "grey", samples=101, draws=draws)
    assert (done == 101).all()
    torch.testing.assert_close(found.log_p, table.logsumexp(0) - math.log(101))
    weights = table.softmax(0)
    torch.testing.assert_close(found.effective, 1 / weights.square().sum(0))


@pytest.mark.parametrize("samples", [3, 50, 5000])
def test_what_is_decoded_at_a_time_does_not_grow_with_the_samples(vae, samples):
    model, guide = vae
    decoded = []
    model.decoder.register_forward_pre_hook(lambda _, given: decoded.append(given[0].shape[:-1].numel()))
    split = Split(torch.randint(0, 256, (23, 1, 4, 4), dtype=torch.uint8))
    evidence(model, guide, split, "threshold", samples=samples, draws=500)
    assert max(decoded) <= 500
    assert sum(decoded) == 23 * samples
    assert len(decoded) < 1.3 * (23 * samples / 500 + 1)  # and never datum by datum


class Flat(torch.nn.Module):
    """A pair's half that sees images as rows."""

    def __init__(self, program):
        super().__init__()
        self.program = program

    def forward(self, x):
        return self.program(x.flatten(1))


def test_dynamic_pixels_are_drawn_by_the_seed_alone(model):
    split = Split(torch.randint(0, 256, (40, 1, 1, 3), dtype=torch.uint8))

    def found(**options):
        return log_likelihood(Flat(model), Flat(ExactGuide(model)), split, "dynamic", **options)

    first = found(samples=2, draws=3)
    torch.testing.assert_close(found(samples=50, draws=1000), first)
    assert not torch.allclose(found(samples=2, draws=3, seed=1), first)
    assert not torch.allclose(model.evidence(to_float(split.x, "grey").flatten(1)), first)


def test_the_noise_follows_from_the_seed_and_none_other_is_touched(model, rows):
    guide, state = ExactGuide(model, shift=0.5), torch.random.get_rng_state()
    first = evidence(model, guide, rows, "grey", samples=20)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(evidence(model, guide, rows, "grey", samples=20).effective, first.effective)
    assert not torch.equal(evidence(model, guide, rows, "grey", samples=20, seed=1).log_p, first.log_p)
