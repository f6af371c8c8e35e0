"""What ArviZ gets: every group, and its own plots work on it."""

import sys
import types
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.nn import PyroParam

from pyro_models.checking.inference_data import as_arviz, groups
from tests.linear_gaussian import ExactGuide, LinearGaussian


@pytest.fixture(scope="module")
def az():
    """Imported for a test, not by whoever collects: it takes seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its next version
        return pytest.importorskip("arviz")


@pytest.fixture
def pair():
    model = LinearGaussian().requires_grad_(False)
    return model, ExactGuide(model).requires_grad_(False)


@pytest.fixture
def grouped(pair):
    return groups(*pair, {"x": torch.zeros(6, 3)}, draws=200)


def test_the_groups_hold_one_chain_of_draws(grouped):
    shapes = {group: {site: value.shape for site, value in sites.items()} for group, sites in grouped.items()}
    assert shapes == {
        "posterior": {"z": (1, 200, 6, 2)},
        "posterior_predictive": {"x": (1, 200, 6, 3)},
        "log_likelihood": {"x": (1, 200, 6)},
        "prior": {"z": (1, 200, 6, 2)},
        "prior_predictive": {"x": (1, 200, 6, 3)},
        "observed_data": {"x": (6, 3)},
    }


def test_log_likelihood_and_replicates_belong_to_the_draws_beside_them():
    model = LinearGaussian().requires_grad_(False)
    x = torch.randn(6, 3)
    grouped = groups(model, ExactGuide(model).requires_grad_(False), {"x": x}, draws=5)
    z = torch.from_numpy(grouped["posterior"]["z"])
    expected = torch.distributions.Normal(z @ model.weight.T + model.bias, model.scale).log_prob(x).sum(-1)
    np.testing.assert_allclose(grouped["log_likelihood"]["x"], expected.detach())
    assert np.abs(grouped["posterior_predictive"]["x"] - grouped["observed_data"]["x"]).min() > 0
    away = grouped["posterior_predictive"]["x"] - (z @ model.weight.T + model.bias).detach().numpy()
    assert away.std() == pytest.approx(model.scale, rel=0.25)


@pytest.mark.parametrize(("version", "called"), [("0.23.4", "by keyword"), ("1.3.0", "with one dictionary")])
def test_each_version_of_arviz_is_called_in_its_own_way(version, called, pair, monkeypatch):
    arviz = types.ModuleType("arviz")
    arviz.__version__ = version
    arviz.from_dict = lambda grouped=None, dims=None, coords=None, **groups: (
        "with one dictionary" if grouped else "by keyword"
    )
    monkeypatch.setitem(sys.modules, "arviz", arviz)
    assert as_arviz(*pair, {"x": torch.zeros(6, 3)}, draws=2) == called


@pytest.mark.filterwarnings("ignore")
def test_its_own_plots_and_summary_work(az, grouped, pair, tmp_path):
    data = as_arviz(*pair, {"x": torch.zeros(6, 3)}, draws=200)
    summary = az.summary(data)
    assert len(summary) == 12
    assert summary["mean"].iloc[0] == pytest.approx(grouped["posterior"]["z"][0, :, 0, 0].mean(), abs=0.01)
    if az.__version__.startswith("0."):
        import matplotlib

        matplotlib.use("agg")
        az.plot_bpv(data, kind="p_value")
        az.plot_ppc(data, num_pp_samples=20)
    else:
        az.plot_ppc_dist(data, backend="matplotlib")
    data.to_netcdf(tmp_path / "a.nc")
    assert (tmp_path / "a.nc").stat().st_size > 10_000


def regression(x, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("person", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


@pytest.mark.filterwarnings("ignore")
def test_a_regression_with_an_autoguide_goes_through_loo_and_summary(az):
    x = torch.randn(40, 2)
    y = x @ torch.tensor([1.0, -2.0]) + torch.randn(40)
    precision = x.T @ x + torch.eye(2)
    exact = torch.linalg.solve(precision, x.T @ y)
    guide = AutoNormal(regression)
    guide(x, y)
    guide.locs.w = torch.nn.Parameter(exact)
    guide.scales.w = PyroParam(precision.diagonal() ** -0.5, dist.constraints.positive)
    data = as_arviz(regression, guide, {"x": x, "y": y}, draws=1000)
    np.testing.assert_allclose(az.summary(data)["mean"], exact, atol=0.03)
    assert dict(data.log_likelihood.sizes) == {"chain": 1, "draw": 1000, "person": 40}
    assert set(data.constant_data) == {"x"}
    spread = (x @ torch.linalg.inv(precision) * x).sum(1)  # the exact leave-one-out density of a Normal regression
    left_out = (y - x @ exact) / (1 - spread)
    exact_loo = dist.Normal(0.0, (1 / (1 - spread)) ** 0.5).log_prob(left_out).sum()
    if az.__version__.startswith("0."):
        assert float(az.loo(data).elpd_loo) == pytest.approx(exact_loo.item(), abs=0.5)
        assert float(az.waic(data).elpd_waic) == pytest.approx(exact_loo.item(), abs=0.5)
        az.plot_bpv(data, kind="p_value")


def test_masked_data_have_no_log_likelihood():
    kept = torch.tensor([True, True, False])

    def model(y, kept):
        with poutine.mask(mask=kept), pyro.plate("datum", 3):
            pyro.sample("y", dist.Normal(pyro.sample("loc", dist.Normal(0.0, 1.0)), 1.0), obs=y)

    y = torch.randn(3)
    pair = (model, {"loc": torch.randn(5, 3)})
    grouped = groups(*pair, {"y": y, "kept": kept}, draws=5)
    assert grouped["log_likelihood"]["y"].shape == (1, 5, 2)
    np.testing.assert_allclose(
        grouped["log_likelihood"]["y"][0], dist.Normal(pair[1]["loc"], 1.0).log_prob(y)[:, kept].numpy()
    )
    assert grouped["constant_data"].keys() == {"kept"}


def test_point_estimates_discrete_draws_and_the_prior_alone(az):
    def mixture(y):
        with pyro.plate("cluster", 2):
            loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("datum", len(y)):
            k = pyro.sample("k", dist.Categorical(torch.ones(2)))
            pyro.sample("y", dist.Normal(loc[k], 1.0), obs=y)

    y = torch.randn(3)
    guide = AutoDelta(poutine.block(mixture, hide=["k"]))
    data = as_arviz(mixture, guide, y, draws=4)
    posterior = data["posterior"]
    assert {name: tuple(map(str, posterior[name].dims)) for name in ("loc", "k")} == {
        "loc": ("chain", "draw", "cluster"),
        "k": ("chain", "draw", "datum"),
    }
    assert float(posterior["loc"].std("draw").max()) == 0.0
    assert groups(mixture, None, y, draws=3).keys() == {"prior", "prior_predictive", "observed_data"}
    assert "prior" not in groups(mixture, guide, y, draws=3, prior=False)


def test_a_prior_that_cannot_be_drawn_from_leaves_the_other_groups_with_a_warning():
    def model(y):
        m = pyro.sample("m", dist.ImproperUniform(dist.constraints.real, (), ()))
        with pyro.plate("datum", len(y)):
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    with pytest.warns(UserWarning, match="the groups of the prior are left out: 'm' cannot be drawn"):
        left = groups(model, {"m": torch.randn(5)}, torch.randn(3), draws=5)
    assert left.keys() == {"posterior", "posterior_predictive", "log_likelihood", "observed_data"}
    with pytest.raises(ValueError, match="'m' cannot be drawn"):
        groups(model, None, torch.randn(3), draws=5)


def test_a_likelihood_is_given_what_is_observed_at_other_sites_and_not_their_replicates():
    def chain(first, second):
        a = pyro.sample("a", dist.Normal(0.0, 1.0), obs=first)
        pyro.sample("b", dist.Normal(100 * a, 1.0), obs=second)

    data = {"first": torch.tensor(0.5), "second": torch.tensor(50.0)}
    log_p = groups(chain, {"none": torch.zeros(3)}, data, draws=3)["log_likelihood"]["b"]
    np.testing.assert_allclose(log_p, dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.0)).item())
