"""What ArviZ gets: every group, and its own plots work on it."""

import sys
import types
import warnings

import numpy as np
import pytest
import torch

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
    arviz.from_dict = lambda grouped=None, **groups: "with one dictionary" if grouped else "by keyword"
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
