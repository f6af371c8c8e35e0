"""The data of a true model pass, those of another fail: the rates are counted."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro_models.guides.vae import VAEGuide
from scipy.stats import binom

from pyro_models import nn
from pyro_models.base.errors import UserError
from pyro_models.checking.calibration import calibrate
from pyro_models.checking.predictive import Check, check, measure, p_values
from pyro_models.checking.replicates import replicate
from pyro_models.checking.statistics import image_statistics, table_statistics
from pyro_models.distributions import bernoulli
from pyro_models.vae import VAE
from tests.linear_gaussian import ExactGuide, LinearGaussian
from tests.linear_mixture import linear_mixture

IMAGE = (1, 6, 6)


def prior_p(checks, name):
    """The two-sided p of a statistic against prior replicates."""
    (check,) = [each for each in checks if each.statistic == name]
    return check.against["prior"]["two_sided"]


def table_story():
    """Three clusters, well apart, and a guide that does not matter to prior replicates."""
    model, guide = linear_mixture()
    with torch.no_grad():
        model.component.weight[:2] = 4 * torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])
        model.component.weight[2:], model.component.bias[:] = 0.0, torch.tensor([0.0, 0.0, -0.7, -0.7])
        model.decoder.weight[:] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]])
    return model, guide


def image_story():
    """Blobs at a place that the latent decides, with pixels that are drawn."""
    model = VAE(nn.decoder(torch.nn.Linear(2, 36), IMAGE), bernoulli, 2)
    place = torch.linspace(-1, 1, 6)
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    with torch.no_grad():
        model.decoder[0].weight[:] = 3 * torch.stack([columns.flatten(), rows.flatten()], -1)
        model.decoder[0].bias[:] = -1.5
    return model, VAEGuide(nn.encoder(nn.mlp(36, 4), IMAGE))


def too_few_clusters(model):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.component.weight[:, 2] = broken.component.weight[:, 1]  # the third is the second again
    return broken


def wider_noise(model):
    broken = copy.deepcopy(model)
    broken.likelihood.log_scale += 0.4
    return broken


def paler(model):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.decoder[0].weight *= 0.6
    return broken


def data_of(model, n, shape):
    with torch.no_grad():
        return replicate(model, None, {"x": torch.zeros(n, *shape)}).drawn["x"]


def statistics_of(model, shape):
    train = data_of(model, 100, shape)
    return {"x": image_statistics(train) if len(shape) == 3 else table_statistics(train, "abcd")}


def p_of_many(truth, model, shape, sets, n=40):
    """Two-sided prior p of each statistic, [sets] each, of data sets of `truth` checked against a model."""
    statistics, rows = statistics_of(truth, shape), []
    for number in range(sets):
        checks = check(model, None, {"x": data_of(truth, n, shape)}, statistics, replicates=39, seed=number)
        rows.append([one.against["prior"]["two_sided"] for one in checks])
    return dict(zip([one.statistic for one in checks], torch.tensor(rows).T, strict=True))


def alarms_are_as_rare_as_5_per_cent(p):
    """Each statistic's rate lies within what 5 % can give once in 10,000 times."""
    for name, values in p.items():
        assert (values <= 0.05).sum() <= binom.ppf(1 - 1e-4, len(values), 0.05), name
    every = torch.stack(list(p.values()))
    assert 0.5 * 0.05 < (every <= 0.05).double().mean() < 1.6 * 0.05


def test_a_true_model_of_a_table_fails_in_5_per_cent():
    model, _ = table_story()
    alarms_are_as_rare_as_5_per_cent(p_of_many(model, model, (4,), sets=14))


@pytest.mark.parametrize(
    ("story", "break_it", "shape", "statistic"),
    [
        (table_story, too_few_clusters, (4,), "b, mean"),
        (table_story, wider_noise, (4,), "distance to the nearest of 100 training rows, mean"),
        (image_story, paler, IMAGE, "stroke width, mean"),
    ],
)
def test_a_broken_copy_is_caught(story, break_it, shape, statistic):
    model, _ = story()
    p = p_of_many(model, break_it(model), shape, sets=4, n=100)
    assert (p[statistic] <= 0.05).sum() >= 3


@pytest.mark.long
@pytest.mark.parametrize(
    ("story", "shape", "breaks"), [(table_story, (4,), [too_few_clusters, wider_noise]), (image_story, IMAGE, [paler])]
)
def test_false_alarms_and_power_over_many_data_sets(story, shape, breaks):
    """Prints the rates that the documentation gives."""
    model, _ = story()
    p = p_of_many(model, model, shape, sets=200)
    alarms_are_as_rare_as_5_per_cent(p)
    rates = {name: float((values <= 0.05).double().mean()) for name, values in p.items()}
    few, many = binom.interval(0.95, 200, 0.05)
    print(f"\n{story.__name__}: {sum(rates.values()) / len(rates):.3f} of the checks of 200 data sets fail,")
    print(f"of one statistic {min(rates.values())} to {max(rates.values())}; 95 % band {few / 200} to {many / 200}")
    for break_it in breaks:
        p = p_of_many(model, break_it(model), shape, sets=100, n=100)
        power = {name: float((values <= 0.05).double().mean()) for name, values in p.items()}
        print(f"{break_it.__name__}: " + ", ".join(f"{name} {rate:.2f}" for name, rate in power.items() if rate > 0.2))
        assert max(power.values()) > 0.95


def test_posterior_replicates_at_the_exact_posterior_fail_in_less_than_5_per_cent():
    model = LinearGaussian().requires_grad_(False)
    model.scale = 0.2
    guide = ExactGuide(model).requires_grad_(False)
    statistics, low = {"x": {"third": lambda x: x[:, 2].mean()}}, []
    for seed in range(15):
        checks = check(model, guide, {"x": data_of(model, 30, (3,))}, statistics, replicates=39, seed=seed, prior=False)
        low += [one.against["posterior"]["p"] for one in checks]
    values = torch.tensor(low)
    assert (values - 0.5).abs().mean() < 0.15  # 0.25 where they are uniform
    assert ((values <= 0.025) | (values >= 0.975)).double().mean() <= 0.05


def test_a_p_value_counts_the_data_as_one_more_replicate():
    result = p_values(3.0, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert (result["p"], result["two_sided"]) == (3 / 5, 1.0)
    assert result["error"] == pytest.approx((0.5 * 0.5 / 4) ** 0.5)  # a share of (1 + 2) / (2 + 4)
    assert p_values(-9.0, torch.arange(39.0))["error"] == pytest.approx(p_values(99.0, torch.arange(39.0))["error"])
    assert (result["mean"], result["sd"]) == (2.5, pytest.approx(1.2909944))
    assert p_values(9.0, torch.arange(39.0))["two_sided"] == pytest.approx(22 / 40)
    assert p_values(99.0, torch.arange(39.0))["two_sided"] == pytest.approx(2 / 40)
    assert p_values(-9.0, torch.arange(39.0))["p"] == 1.0
    assert p_values(0.0, torch.zeros(50))["two_sided"] == 1.0


def test_the_monte_carlo_error_is_the_spread_of_p_over_repetitions():
    results = [p_values(0.7, torch.randn(100)) for _ in range(1000)]
    p = torch.tensor([one["p"] for one in results])
    assert p.std().item() == pytest.approx(sum(one["error"] for one in results) / 1000, rel=0.1)


def test_statistics_are_any_functions_and_are_measured_once_on_the_data(vae, x):
    model, guide = vae
    state, mode = torch.get_rng_state(), (model.training, guide.training)
    seen = []

    def corner(x):
        seen.append(x)
        return x[:, 0, 0, 0]

    def darkest(x):
        return x.mean((1, 2, 3)).max()

    checks = check(model, guide, {"x": x}, {"x": {"corner": corner, "darkest": darkest}}, replicates=39)
    assert [one.statistic for one in checks] == ["corner, mean", "corner, sd", "darkest"]
    assert checks[0].observed == pytest.approx(x[:, 0, 0, 0].mean().item())
    assert checks[1].observed == pytest.approx(x[:, 0, 0, 0].std().item())
    assert checks[2].observed == pytest.approx(x.mean((1, 2, 3)).max().item())
    assert len(seen) == 2 * 39 + 1
    assert sum(torch.equal(one, x) for one in seen) == 1  # the data themselves, once
    assert torch.equal(torch.get_rng_state(), state)
    assert (model.training, guide.training) == mode
    again = check(model, guide, {"x": x}, {"x": {"corner": corner, "darkest": darkest}}, replicates=39)
    assert [one.as_json() for one in again] == [one.as_json() for one in checks]


def test_clusters_that_a_guide_infers_are_checked_against_the_storys():
    model, guide = table_story()
    with torch.no_grad():
        guide.classifier[-1].bias[:] = torch.tensor([0.0, 0.0, -50.0])  # one cluster is never inferred
    statistics = {"y": {"share": lambda y: y[:, 2]}}
    checks = check(model, guide, {"x": data_of(model, 60, (4,))}, statistics, replicates=39)
    assert checks[0].observed == 0.0
    assert set(checks[0].replicated) == {"prior"}
    assert prior_p(checks, "share, mean") == pytest.approx(2 / 40)


def test_wrong_statistics_are_named(vae, x):
    model, guide = vae
    for wrong in (lambda x: x, lambda x: x.new_full((), torch.nan), lambda x: x[:3, 0, 0, 0]):
        with pytest.raises(UserError, match="statistic 'wrong' gives"):
            measure({"x": {"wrong": wrong}}, {"x": x})
    with pytest.raises(ValueError, match=r"statistics of \['w'\], and the sites are \['x', 'z'\]"):
        check(model, guide, {"x": x}, {"w": {"ink": lambda w: w.mean()}})
    with pytest.raises(ValueError, match="fewer than 39"):
        check(model, guide, {"x": x}, {}, replicates=38)


def test_a_check_can_be_written_as_json():
    one = Check("x", "ink", 2.0, {"prior": torch.arange(40.0)})
    written = one.as_json()
    assert written["prior"]["p"] == 39 / 41
    assert set(written) == {"site", "statistic", "observed", "prior"}


def test_a_statistic_that_fails_is_named():
    with pytest.raises(UserError, match=r"'mine' of \[3, 2\] fails"):
        measure({"x": {"mine": torch.linalg.inv}}, {"x": torch.ones(3, 2)})


def test_the_learnt_values_of_pyro_param_are_checked():
    pyro.clear_param_store()
    pyro.param("loc", torch.tensor(0.0))
    pyro.get_param_store()["loc"] = torch.tensor(5.0)

    def model(x):
        loc = pyro.param("loc", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + pyro.param("loc", torch.tensor(0.0))) / 2, 0.5**0.5))

    x = 5.0 + 2**0.5 * torch.randn(200)
    (checks, _) = check(model, guide, {"x": x}, {"x": {"mean": torch.clone}}, replicates=39)
    assert abs(checks.against["prior"]["mean"] - 5.0) < 0.1
    assert calibrate(model, guide, {"x": x.repeat(5)})[0].p > 1e-3  # a scalar latent, and the exact posterior
    pyro.clear_param_store()
