"""Densities of columns are those of scipy and Pyro, cell by cell, and what is missing does not count."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy import stats

from pyro_models.distributions import ColumnLikelihood, Incomplete, OneHotColumns, Ordinal, observe
from pyro_models.distributions.columns import EXTRA, SPEED

LAYOUT = [
    ("normal", 1),
    ("categorical", 3),
    ("poisson", 1),
    ("normal", 1),
    ("student-t", 1),
    ("negative-binomial", 1),
    ("bernoulli", 1),
    ("ordinal", 4),
    ("beta", 1),
    ("categorical", 2),
    ("continuous-bernoulli", 1),
    ("ordinal", 2),
]
ROW = torch.tensor([0.3, 0, 1, 0, 4, -1.2, 2.5, 7, 1, 2, 0.3, 1, 0, 0.7, 1])
OUT = torch.tensor([0.1, 0.4, -0.3, 0.9, 0.8, -0.5, 0.2, 1.1, -0.4, 0.6, 0.5, 0.2, -0.7, 0.3, -0.2])
CELLS = [[0], [1, 2, 3], [4], [5], [6], [7], [8], [9], [10], [11, 12], [13], [14]]


@pytest.fixture
def likelihood():
    torch.manual_seed(0)
    made = ColumnLikelihood(LAYOUT)
    for parameter in made.parameters():
        parameter.data.normal_(std=0.02)
    return made


def extra(likelihood, name, number=0):
    family, parameter = name.split()
    return np.exp(EXTRA[family][parameter] + SPEED * likelihood.extra[name][number].item())


def of_cells(likelihood):
    """The log-density of each column of `ROW` by scipy."""
    out, x = OUT.numpy(), ROW.numpy()
    p = [np.exp(out[cells]) / np.exp(out[cells]).sum() for cells in ([1, 2, 3], [11, 12])]
    total = extra(likelihood, "negative-binomial total")
    mean, c = 1 / (1 + np.exp(-out[10])), extra(likelihood, "beta concentration")
    cuts = likelihood._cutpoints().detach().numpy()

    def level(predictor, cutpoints, k):
        below = np.concatenate([[0], 1 / (1 + np.exp(predictor - cutpoints)), [1]])
        return np.log(below[k + 1] - below[k])

    t = stats.t(2 + extra(likelihood, "student-t df"), out[6], extra(likelihood, "student-t scale"))
    return [
        stats.norm(out[0], extra(likelihood, "normal scale")).logpdf(x[0]),
        np.log(p[0][1]),
        stats.poisson(np.exp(out[4])).logpmf(4),
        stats.norm(out[5], extra(likelihood, "normal scale", 1)).logpdf(x[5]),
        t.logpdf(x[6]),
        stats.nbinom(total, total / (total + np.exp(out[7]))).logpmf(7),
        np.log(1 / (1 + np.exp(-out[8]))),
        level(out[9], cuts[0], 2),
        stats.beta(c * mean, c * (1 - mean)).logpdf(x[10]),
        np.log(p[1][0]),
        dist.ContinuousBernoulli(logits=OUT[13]).log_prob(ROW[13]).item(),
        level(out[14], cuts[1, :1], 1),
    ]


def test_each_column_has_the_density_of_its_likelihood_and_a_missing_one_none(likelihood):
    expected = of_cells(likelihood)
    assert likelihood(OUT).log_prob(ROW).item() == pytest.approx(sum(expected), abs=1e-5)
    for cells, each in zip(CELLS, expected, strict=True):
        holed, out = ROW.clone(), OUT.clone().requires_grad_()
        holed[cells] = torch.nan
        value = likelihood(out).log_prob(holed)
        assert value.item() == pytest.approx(sum(expected) - each, abs=1e-5)
        value.backward()
        assert out.grad.isfinite().all()
        assert (out.grad[cells] == 0).all()
    alone = torch.full_like(ROW, torch.nan)
    assert likelihood(OUT).log_prob(alone).item() == 0


def test_draws_have_the_means_that_are_said_and_the_columns_their_places(likelihood):
    fn = likelihood(OUT)
    drawn = fn.sample((20_000,))
    spread = drawn.std(0) / 20_000**0.5
    assert ((drawn.mean(0) - fn.mean).abs() < 5 * spread + 1e-6).all()
    blocks = drawn[:, [1, 2, 3]]
    assert torch.equal(blocks.sum(1), torch.ones(20_000))
    assert drawn[:, 14].unique().tolist() == [0, 1]  # the second ordinal has two levels


def test_each_group_is_a_site_and_one_group_is_x(likelihood):
    x = ROW.expand(7, -1)

    def model(x):
        with pyro.plate("data", 7):
            return observe("x", likelihood(OUT.expand(7, -1)), x)

    trace = poutine.trace(model).get_trace(x)
    assert torch.equal(trace.nodes["_RETURN"]["value"], x)
    sites = [name for name in trace.observation_nodes]
    assert sites == [
        "x_reals_normal", "x_reals_student_t", "x_counts_negative_binomial", "x_counts_poisson", "x_binary",
        "x_categories", "x_ordinals", "x_shares_continuous_bernoulli", "x_shares_beta",
    ]  # fmt: skip
    assert trace.log_prob_sum().item() == pytest.approx(7 * sum(of_cells(likelihood)), abs=1e-4)
    generated = poutine.trace(model).get_trace(None)
    assert generated.nodes["_RETURN"]["value"].shape == (7, 15)
    counts = ColumnLikelihood([("poisson", 1), ("poisson", 1)])
    alone = poutine.trace(observe).get_trace("x", counts(torch.zeros(2)), torch.ones(2))
    assert list(alone.observation_nodes) == ["x"]


def test_ordered_levels_are_pyros_but_exact_far_out():
    cuts = torch.tensor([-1.0, 0.5, 2.0])
    predictor = torch.tensor([-3.0, 0.0, 1.7, 5.0])
    ours, theirs = Ordinal(predictor, cuts.expand(4, 3)), dist.OrderedLogistic(predictor, cuts)
    torch.testing.assert_close(ours.probs, theirs.probs, rtol=1e-5, atol=1e-6)
    far = Ordinal(torch.tensor(60.0), cuts).log_prob(torch.tensor(0.0))
    assert far.item() == pytest.approx(-61.0)  # log sigmoid(-1 - 60)
    padded = Ordinal(predictor, torch.tensor([-1.0, 0.5, torch.inf]).expand(4, 3))
    torch.testing.assert_close(padded.probs[:, :3], dist.OrderedLogistic(predictor, cuts[:2]).probs)
    assert (padded.probs[:, 3] == 0).all()


def test_wrappers_expand_and_keep_their_densities():
    x = torch.tensor([0.5, torch.nan])
    fn = Incomplete(dist.Normal(torch.zeros(()), 1.0)).expand([3, 2])
    assert torch.equal(fn.log_prob(x)[:, 1], torch.zeros(3))
    one = OneHotColumns(torch.zeros(5), (2, 3))
    assert torch.equal(one.expand([4]).log_prob(torch.eye(5)[0]), one.log_prob(torch.eye(5)[0]).expand(4))
