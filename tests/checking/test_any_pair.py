"""Replicates and checks of programs as they come: each with a value that is known, or the words of its refusal."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.infer import SVI, Predictive, Trace_ELBO, config_enumerate
from pyro.infer import autoguide as ag
from pyro.infer.reparam import LocScaleReparam
from scipy.stats import norm

from pyro_models.base.errors import UserError
from pyro_models.checking import Check, check, checks_table
from pyro_models.checking.replicates import batches, data_plate, in_parts, replicate

MEAN = {"y": {"mean": torch.mean}}


def shared(y, n=None, *, flag=True):
    """A scalar latent that all data share."""
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


def posterior_of_shared(y, n=None, *, flag=True):
    pyro.sample("m", dist.Normal(y.sum() / (len(y) + 1), (1 / (len(y) + 1)) ** 0.5))


def counts(y):
    rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
    with pyro.plate("people", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def posterior_of_counts(y):
    pyro.sample("rate", dist.Gamma(2.0 + y.sum(), 0.5 + len(y)))


def draws_of(model, guide, data, site, count=400):
    return torch.stack([replicate(model, guide, data).drawn[site] for _ in range(count)])


def test_the_posterior_predictive_p_of_a_shared_mean_is_that_of_its_closed_form():
    """The mean of n replicates is Normal around n mean / (n + 1), of variance 1 / (n + 1) + 1 / n."""
    y = 1.0 + torch.randn(20)
    n, mean = len(y), y.mean()
    exact = norm.sf((mean - n * mean / (n + 1)) / (1 / (n + 1) + 1 / n) ** 0.5)
    prior = norm.sf(mean / (1 + 1 / n) ** 0.5)
    (one,) = check(shared, posterior_of_shared, {"y": y, "n": 20, "flag": None}, MEAN, replicates=400)
    assert one.against["posterior"]["p"] == pytest.approx(exact, abs=0.08)
    assert one.against["prior"]["p"] == pytest.approx(prior, abs=0.08)


def test_predictive_of_pyro_agrees():
    y = torch.randn(20)
    theirs = Predictive(poutine.uncondition(shared), guide=posterior_of_shared, num_samples=400)(y)["y"].std(-1)
    (one,) = check(shared, posterior_of_shared, y, {"y": {"sd": torch.std}}, replicates=400)
    assert one.against["posterior"]["p"] == pytest.approx((theirs >= y.std()).double().mean().item(), abs=0.1)


def test_overdispersed_counts_fail_where_a_poisson_cannot_follow_and_pass_in_the_mean():
    y = dist.NegativeBinomial(1.0, probs=torch.tensor(0.8)).sample((100,))
    statistics = {
        "y": {"mean": torch.mean, "zeros": lambda y: (y == 0).double().mean(), "ratio": lambda y: y.var() / y.mean()}
    }
    p = {one.statistic: one.against["posterior"]["p"] for one in check(counts, posterior_of_counts, y, statistics)}
    assert p["mean"] == pytest.approx(0.5, abs=0.15)
    assert p["zeros"] == p["ratio"] == pytest.approx(1 / 101)


AUTO = [
    ag.AutoNormal, ag.AutoDelta, ag.AutoDiagonalNormal, ag.AutoMultivariateNormal, ag.AutoLowRankMultivariateNormal,
    ag.AutoStructured, ag.AutoGaussian, ag.AutoIAFNormal, ag.AutoNormalMessenger,
]  # fmt: skip


def schools(results, errors):
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.HalfNormal(10.0))
    with pyro.plate("schools", len(results)):
        effect = pyro.sample("effect", dist.Normal(loc, scale))
        pyro.sample("result", dist.Normal(effect, errors), obs=results)


SCHOOLS = (torch.tensor([28.0, 8.0, -3.0, 7.0]), torch.tensor([15.0, 10.0, 16.0, 11.0]))


@pytest.mark.parametrize("auto", AUTO, ids=lambda auto: auto.__name__)
def test_every_autoguide_gives_the_latents_and_no_auxiliary_site(auto):
    data = tuple(values.double() for values in SCHOOLS)
    centred = auto(schools)
    assert replicate(schools, centred, data).latents.keys() == {"loc", "scale", "effect"}
    pyro.clear_param_store()
    model = poutine.reparam(schools, {"effect": LocScaleReparam(0.0)})
    replicated = replicate(model, auto(model), data)
    assert replicated.latents.keys() == {"loc", "scale", "effect_decentered"}
    assert replicated.deterministic.keys() == {"effect"}
    assert replicated.drawn["result"].shape == (4,)


def test_an_easyguide_and_a_list_of_guides_give_the_latents():
    class Grouped(EasyGuide):
        def guide(self, y):
            self.map_estimate("m")

    y = torch.randn(5)
    assert replicate(shared, Grouped(shared), y).latents.keys() == {"m"}
    guide = ag.AutoGuideList(schools)
    guide.append(ag.AutoNormal(poutine.block(schools, expose=["effect"])))
    guide.append(ag.AutoDiagonalNormal(poutine.block(schools, hide=["effect"])))
    assert replicate(schools, guide, SCHOOLS).latents.keys() == {"loc", "scale", "effect"}


def test_a_trained_autoguide_of_a_regression_agrees_with_the_exact_posterior():
    x, noise = torch.randn(50, 2), torch.randn(50)
    y = x @ torch.tensor([1.0, -2.0]) + noise

    def regression(x, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    guide = ag.AutoMultivariateNormal(regression)
    svi = SVI(regression, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(250):
        svi.step(x, y)
    exact = torch.linalg.solve(x.T @ x + torch.eye(2), x.T @ y)
    draws = torch.stack([replicate(regression, guide, (x, y)).latents["w"] for _ in range(300)])
    torch.testing.assert_close(draws.mean(0), exact, rtol=0, atol=0.1)


def test_replicates_of_a_subsample_are_of_the_data_that_the_guide_saw_and_all_are_of_one():
    """Each datum is its own latent, next to no noise: a replicate of another subsample would be far away."""
    y = 10.0 * torch.arange(20.0)

    def model(y):
        with pyro.plate("data", len(y), subsample_size=5) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1000.0))
            pyro.sample("y", dist.Normal(z, 1e-3), obs=y[rows])

    def guide(y):
        with pyro.plate("data", len(y), subsample_size=5) as rows:
            pyro.sample("z", dist.Normal(y[rows], 1e-3))

    for _ in range(5):
        replicated = replicate(model, guide, y)
        torch.testing.assert_close(replicated.drawn["y"], y[replicated.subsamples["data"]], rtol=0, atol=0.05)
    (one,) = check(model, guide, y, {"y": {"largest": torch.max}}, replicates=39)
    torch.testing.assert_close(one.replicated["posterior"], torch.full((39,), one.observed), rtol=0, atol=0.05)


def test_observed_sites_without_a_plate_and_of_sequential_plates_are_drawn_for_each_datum():
    def no_plate(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    def in_turn(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        for i in pyro.plate("data", len(y)):
            pyro.sample(f"y_{i}", dist.Normal(m, 1.0), obs=y[i])

    y = torch.zeros(200)
    drawn = replicate(no_plate, posterior_of_shared, y).drawn["y"]
    assert drawn.std().item() == pytest.approx(1.0, abs=0.2)
    replicated = replicate(in_turn, posterior_of_shared, y[:4])
    assert list(replicated.drawn) == [f"y_{i}" for i in range(4)]
    assert data_plate(replicated) is None


def mixture(y):
    weight = torch.tensor([0.3, 0.7])
    with pyro.plate("data", len(y)):
        k = pyro.sample("k", dist.Categorical(weight))
        pyro.sample("y", dist.Normal(torch.tensor([-1.0, 1.0])[k], 1.0), obs=y)


@pytest.mark.parametrize("model", [mixture, config_enumerate(mixture, "parallel")])
def test_a_cluster_that_is_summed_out_is_drawn_from_its_conditional(model):
    y = torch.tensor([-1.0, 0.0, 0.5]).repeat_interleave(2000)
    k = replicate(model, lambda y: None, y).latents["k"].double().reshape(3, 2000).mean(1)
    exact = 0.7 / (0.7 + 0.3 * torch.exp(-2 * torch.tensor([-1.0, 0.0, 0.5])))
    torch.testing.assert_close(k, exact, rtol=0, atol=0.04)
    prior = replicate(model, None, y).latents["k"].double().mean()
    assert prior.item() == pytest.approx(0.7, abs=0.03)


def test_the_states_of_a_markov_chain_are_drawn_from_their_joint_conditional():
    stay = torch.tensor([[0.9, 0.1], [0.1, 0.9]])

    def chain(y):
        with pyro.plate("data", len(y)):
            k = torch.zeros(len(y), dtype=torch.long)
            for t in pyro.markov(range(2)):
                k = pyro.sample(f"k_{t}", dist.Categorical(stay[k]), infer={"enumerate": "parallel"})
                pyro.sample(f"y_{t}", dist.Normal(2.0 * k, 1.0), obs=y[:, t])

    y = torch.tensor([[1.0, 2.0]]).expand(4000, 2)
    replicated = replicate(chain, lambda y: None, y)
    state = 2 * replicated.latents["k_0"] + replicated.latents["k_1"]
    joint = torch.stack([
        stay[0, a] * stay[a, b] * torch.exp(-0.5 * ((1.0 - 2 * a) ** 2 + torch.tensor((2.0 - 2 * b) ** 2)))
        for a in (0, 1) for b in (0, 1)
    ])  # fmt: skip
    torch.testing.assert_close(state.bincount(minlength=4) / 4000, joint / joint.sum(), rtol=0, atol=0.03)


def test_what_a_mask_leaves_out_is_the_same_in_data_and_replicates():
    kept = torch.tensor([True, False, True, False])
    y = torch.tensor([1.0, 50.0, 2.0, 70.0])

    def handler(y):
        with pyro.plate("data", 4), poutine.mask(mask=kept):
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    def distribution(y):
        with pyro.plate("data", 4):
            pyro.sample("y", dist.Normal(torch.zeros(4, 1), 1.0).to_event(1).mask(kept), obs=y[:, None])

    def imputed(y):
        with pyro.plate("data", 4):
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=y, obs_mask=kept)

    for model, site in ((handler, "y"), (distribution, "y"), (imputed, "y_observed")):
        replicated = replicate(model, None, y)
        drawn = replicated.drawn[site].flatten()
        assert torch.equal(drawn[~kept], y[~kept])
        assert (drawn[kept] != y[kept]).all()
        assert torch.equal(replicated.counted[site], kept)
    assert replicated.latents.keys() == {"y_unobserved"}


def test_a_prior_that_cannot_be_drawn_from_leaves_posterior_checks_alone():
    def improper(y):
        m = pyro.sample("m", dist.ImproperUniform(dist.constraints.real, (), ()))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    def weighted(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.factor("truncation", torch.where(m > 0, 0.0, -torch.inf))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    y = torch.randn(5)
    for model, reason in ((improper, "'m' cannot be drawn"), (weighted, "the factor 'truncation' weighs")):
        (one,) = check(model, posterior_of_shared, y, MEAN, replicates=39)
        assert one.against.keys() == {"posterior"}
        assert one.undefined == {"prior": 39}
        assert reason in one.notes["prior"]
        assert reason in checks_table([one])
        (alone,) = check(model, posterior_of_shared, y, MEAN, replicates=39, prior=False)
        assert (alone.notes, alone.against.keys()) == ({}, {"posterior"})
        with pytest.raises(UserError, match=reason):
            check(model, None, y, MEAN, replicates=39)


def test_replicates_without_a_value_are_counted_and_end_nothing():
    def model(y):
        rate = pyro.sample("rate", dist.Gamma(0.2, 0.1))
        if rate > 3.0:
            raise RuntimeError("the solver diverges")
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Poisson(rate), obs=y)

    def guide(y):
        pyro.sample("rate", dist.Gamma(torch.tensor(200.0), 100.0))

    y = torch.tensor([0.0, 3.0, 1.0, 4.0])
    (one,) = check(model, guide, y, {"y": {"ratio": lambda y: y.var() / y.mean()}}, replicates=100)
    finite = len(one.replicated["prior"])
    assert 0 < finite < 100
    assert one.undefined == {"prior": 100 - finite}
    assert f"{100 - finite} of 100 prior replicates have no value" in checks_table([one])
    assert one.as_json()["undefined"] == one.undefined
    (none,) = check(model, guide, y, {"y": {"nothing": lambda y: y.sum() / (y.sum() == 8)}}, replicates=39)
    assert "prior" not in none.replicated or len(none.replicated["prior"]) < 39


def test_an_error_in_a_posterior_replicate_is_one_line():
    def guide(y):
        raise RuntimeError("singular\nand more")

    with pytest.raises(UserError, match=r"a posterior replicate fails: singular$"):
        check(shared, guide, torch.randn(5), MEAN, replicates=39)


def test_prior_replicates_alone_need_no_guide():
    y = torch.randn(5)
    (one,) = check(shared, None, y, MEAN, replicates=39)
    assert one.against.keys() == {"prior"}
    with pytest.raises(UserError, match=r"statistics of \['m'\], and the sites are \['y'\]"):
        check(shared, None, y, {"m": {"value": torch.mean}}, replicates=39)
    with pytest.raises(UserError, match="no replicates: give a guide"):
        check(shared, None, y, MEAN, replicates=39, prior=False)


def test_draws_of_an_mcmc_stand_in_for_a_guide():
    y = 1.0 + torch.randn(20)
    m = y.sum() / 21 + torch.randn(2000) / 21**0.5
    by_guide = check(shared, posterior_of_shared, y, MEAN, replicates=200)[0].against["posterior"]["p"]
    for samples in ({"m": m}, {"m": m[:, None], "y": torch.zeros(2000, 20)}):  # Predictive keeps room for plates
        (one,) = check(shared, samples, y, MEAN, replicates=200)
        assert one.against["posterior"]["p"] == pytest.approx(by_guide, abs=0.12)
    with pytest.raises(UserError, match="30 draws of the latents are too few for `replicates=39`"):
        check(shared, {"m": m[:30]}, y, MEAN, replicates=39)
    with pytest.raises(UserError, match=r"'m' has the shape \[\], and its value \[20\]"):
        check(shared, {"m": m.reshape(100, 20)}, y, MEAN, replicates=39)
    with pytest.raises(UserError, match="no draws of 'm', a latent site of the model"):
        check(shared, {"other": m}, y, MEAN, replicates=39)


def test_a_discrepancy_is_compared_at_each_draw_of_the_latents():
    """Of the largest residual: T(y, m) is known at each draw, and for a true model p is about one half."""
    y = torch.randn(30)

    def farthest(y, latents):
        return (y - latents["m"]).abs().max()

    (one,) = check(shared, posterior_of_shared, y, {"y": {"farthest": farthest}}, replicates=400)
    assert one.replicated.keys() == {"posterior"}
    assert len(one.realised) == 400
    share = (one.replicated["posterior"] >= one.realised).double().mean().item()
    assert one.against["posterior"]["p"] == pytest.approx(share, abs=0.01)
    exact = 1 - (2 * norm.cdf(float((y - y.sum() / 31).abs().max())) - 1) ** 30
    assert share == pytest.approx(exact, abs=0.15)  # m is known to 0.2
    with pytest.raises(UserError, match="needs a guide"):
        check(shared, None, y, {"y": {"farthest": farthest}}, replicates=39)


def test_an_observed_value_that_depends_on_latents_is_compared_at_each_draw():
    def residuals(x, y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("residual", dist.Normal(0.0, 1.0), obs=y - w * x)

    x = torch.randn(50)
    y = 2.0 * x + torch.randn(50)
    w = (x * y).sum() / (x.square().sum() + 1)
    (one,) = check(
        residuals, lambda x, y: pyro.sample("w", dist.Normal(w, 0.1)), (x, y), {"residual": {"sd": torch.std}}
    )
    assert one.realised.std() > 0
    assert one.observed == pytest.approx((y - w * x).std().item(), abs=0.05)


def per_datum(x, weight=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.01), obs=x)


def guide_per_datum(x, weight=None):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 0.01))


def test_data_are_cut_along_their_plate_and_other_arguments_are_not():
    x = torch.randn(23)
    replicated = in_parts(per_datum, guide_per_datum, {"x": x, "weight": torch.eye(3)}, 5)
    torch.testing.assert_close(replicated.drawn["x"], x, rtol=0, atol=0.1)
    assert len(batches(per_datum, guide_per_datum, (x, torch.eye(3)), 5)) == 5


def test_data_that_cannot_be_cut_are_refused_with_the_reason():
    def centred(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(x.mean(), 1.0), obs=x)

    def of_fixed_size(x):
        with pyro.plate("data", 12):
            pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x.mean().expand(12))

    x = torch.randn(12)
    for model, guide, reason in (
        (shared, posterior_of_shared, "'m' is outside the plate 'data'; leave `batch_size` out"),
        (centred, lambda x: None, "the density of 'x' at a datum depends on the other data"),
        (of_fixed_size, lambda x: None, "on the first 4 rows the plate 'data' has 12 elements"),
    ):
        with pytest.raises(UserError, match=reason):
            check(model, guide, x, {}, replicates=39, batch_size=4)
    with pytest.raises(UserError, match="does not go with samples"):
        check(shared, {"m": torch.randn(50)}, x, {}, replicates=39, batch_size=4)


def test_batch_norm_and_modes_are_as_before_through_bound_methods():
    class Pair:
        def __init__(self):
            self.network = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))

        def model(self, y):
            with pyro.plate("data", len(y)):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                pyro.sample("y", dist.Normal(self.network(z), 1.0).to_event(1), obs=y)

        def guide(self, y):
            with pyro.plate("data", len(y)):
                pyro.sample("z", dist.Normal(self.network(y), 1.0).to_event(1))

    pair = Pair()
    before = {name: value.clone() for name, value in pair.network.state_dict().items()}
    check(pair.model, pair.guide, torch.randn(9, 1), MEAN, replicates=39)
    assert pair.network.training
    assert all(torch.equal(before[name], value) for name, value in pair.network.state_dict().items())


def test_a_check_of_no_replicates_has_a_row():
    one = Check("y", "mean", 1.0, {}, None, {"prior": 39}, {"prior": "none of them"})
    assert "| y: mean | 1 |" in checks_table([one])


def test_a_distribution_that_draws_events_of_another_size_than_the_data_is_refused():
    def short(y):
        pyro.sample("y", dist.Normal(torch.zeros(1), 1.0).to_event(1), obs=y)  # its density adds up over six

    def unknown(y, duration=None):
        normal, identity = dist.Normal(torch.zeros(1), 1.0).to_event(1), torch.eye(1)
        pyro.sample("y", dist.GaussianHMM(normal, identity, normal, identity, normal, duration=duration), obs=y)

    with pytest.raises(UserError, match=r"a draw of 'y' has the shape \[1\], and the data \[6\]: give its"):
        replicate(short, None, torch.randn(6))
    with pytest.raises(UserError, match="'y' cannot be drawn"):
        replicate(unknown, None, torch.randn(6, 1))
    assert replicate(unknown, None, (torch.randn(6, 1), 6)).drawn["y"].shape == (6, 1)


def test_a_chain_whose_steps_have_latents_of_the_guide_too_is_summed_out():
    def survival(y):
        with pyro.plate("animals", len(y)):
            z = torch.ones(len(y))
            for t in pyro.markov(range(3)):
                phi = pyro.sample(f"phi_{t}", dist.Beta(2.0, 2.0).expand([1]).mask(True))
                z = pyro.sample(f"z_{t}", dist.Bernoulli(phi * z), infer={"enumerate": "parallel"})
                pyro.sample(f"y_{t}", dist.Bernoulli(0.8 * z), obs=y[:, t])

    y = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    guide = ag.AutoNormal(poutine.block(survival, expose_fn=lambda site: site["name"].startswith("phi")))
    replicated = replicate(survival, guide, y)
    assert torch.stack([replicated.latents[f"z_{t}"][0] for t in range(3)]).tolist() == [1.0, 1.0, 1.0]
    assert replicated.latents["z_2"].shape == (2,)


def test_a_model_follows_the_subsample_of_a_guide_that_alone_asks_for_one():
    def model(y):
        with pyro.plate("data", len(y)) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 1000.0))
            pyro.sample("y", dist.Normal(z, 1e-3), obs=y[rows])

    def guide(y):
        with pyro.plate("data", len(y), subsample_size=3) as rows:
            pyro.sample("z", dist.Normal(y[rows], 1e-3))

    y = 10.0 * torch.arange(9.0)
    replicated = replicate(model, guide, y)
    torch.testing.assert_close(replicated.drawn["y"], y[replicated.subsamples["data"]], rtol=0, atol=0.05)


def test_a_factor_that_weighs_what_is_drawn_anew_is_refused():
    def model(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            drawn = pyro.sample("y", dist.Normal(m, 1.0), obs=y)
        pyro.factor("increasing", -(drawn.diff() < 0).sum().double())

    with pytest.raises(UserError, match="the factor 'increasing' depends on what is drawn anew"):
        replicate(model, posterior_of_shared, torch.arange(5.0))
